//! Log lines with a level. A function's output is its log: the host tags each line with function, revision and invocation,
//! and keeps them for `dunlin logs`. `println!` works as well; these put the level in front, and what somebody should look
//! at on standard error.

/// Logs that something happened: formatted as by [`format!`], to standard output.
#[macro_export]
macro_rules! info {
    ($($message:tt)*) => { ::std::println!("INFO {}", ::std::format_args!($($message)*)) };
}

/// Logs that something went on, but not as meant: formatted as by [`format!`], to standard error.
#[macro_export]
macro_rules! warn {
    ($($message:tt)*) => { ::std::eprintln!("WARN {}", ::std::format_args!($($message)*)) };
}

/// Logs that somebody must look: formatted as by [`format!`], to standard error.
#[macro_export]
macro_rules! error {
    ($($message:tt)*) => { ::std::eprintln!("ERROR {}", ::std::format_args!($($message)*)) };
}
