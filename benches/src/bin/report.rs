//! Prints the table of a run, `report RESULTS`.

use cirque_benches::report::Results;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: report RESULTS")?;
    print!("{}", Results::parse(&std::fs::read_to_string(path)?)?.table());
    Ok(())
}
