//! The load generator: `load MODE TARGET [name=value …]` prints one JSON object of figures.
//!
//! Modes: `closed`, `rate`, `hold`, `ready`, and `port`, which prints a free port.

use cirque_benches::client::call;
use cirque_benches::measure::{self, Plan};
use std::collections::HashMap;
use std::error::Error;
use std::net::TcpListener;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: load closed|rate|hold|ready TARGET [model=plain] [key=sk-bench] \
    [bytes=1024] [connections=64] [seconds=5] [warm_up=1] [per_second=200] [pid=0], or: load port";

/// `name=value` words.
struct Settings(HashMap<String, String>);

impl Settings {
    fn get<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        match self.0.get(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("{name}={text}: not understood")),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let mode = words.next().ok_or(USAGE)?;
    if mode == "port" {
        println!("{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        return Ok(());
    }
    let target = words.next().ok_or(USAGE)?.parse()?;
    let pairs = words.map(|word| word.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())));
    let settings = Settings(pairs.collect::<Option<_>>().ok_or(USAGE)?);
    let (key, model) =
        (settings.get("key", "sk-bench".to_owned())?, settings.get("model", "plain".to_owned())?);
    let seconds = |name, default| settings.get(name, default).map(Duration::from_secs_f64);
    let plan = Plan {
        target,
        call: Rc::new(call(target, &key, &model, settings.get("bytes", 1024)?)),
        connections: settings.get("connections", 64)?,
        window: seconds("seconds", 5.0)?,
        warm_up: seconds("warm_up", 1.0)?,
        pid: settings.get("pid", 0)?,
    };
    let figures = match mode.as_str() {
        "closed" => measure::closed(plan).await?,
        "rate" => measure::rate(plan, settings.get("per_second", 200.0)?).await?,
        "hold" => measure::hold(plan, &call(target, &key, "plain", 1024)).await?,
        "ready" => measure::ready(plan).await?,
        _ => return Err(USAGE.into()),
    };
    println!("{figures}");
    Ok(())
}
