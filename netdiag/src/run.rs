//! The one loop that sees all parts.
use std::process::ExitCode;
/// Entry of the binary.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
