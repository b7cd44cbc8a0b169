//! Pages of metrics, as Prometheus wants them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use leakguard::lab::output_within;

const LIMIT: Duration = Duration::from_mins(1);

/// Asserts that promtool finds nothing wrong with a page, and nothing unusual.
///
/// # Panics
///
/// If it does, with what it says.
pub fn assert_metrics(page: &Path) {
    let mut promtool = Command::new("sh");
    promtool
        .args(["-c", "promtool check metrics < \"$1\"", "sh"])
        .arg(page);
    let output = output_within(promtool, LIMIT).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.trim().is_empty(),
        "promtool: {said}"
    );
}
