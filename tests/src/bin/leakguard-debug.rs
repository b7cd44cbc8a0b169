//! The agent as the tests' own profile builds it: with what only debug builds can do.

fn main() -> std::process::ExitCode {
    leakguard::cli::main()
}
