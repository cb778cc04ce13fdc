//! Any text as a configuration: it is read or refused, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    drop(cirque::config::check_text(text));
});
