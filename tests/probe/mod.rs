//! The program inside the container: prints what a process sees and what it may do.
//!
//! It is this test binary under the name `probe`, so that there is nothing else to build or install.

mod attempts;
mod facts;
mod raw;
mod roles;

use std::process::ExitCode;

/// Whether this process was started as the probe.
pub(crate) fn wanted() -> bool {
    std::env::args_os()
        .next()
        .is_some_and(|name| name.to_string_lossy().rsplit('/').next() == Some("probe"))
}

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let (verb, rest) = match args.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("facts", [].as_slice()),
    };
    match verb {
        "facts" => println!("{}", facts::all()),
        "try" => println!("{}", attempts::all(rest)),
        "signals" => return roles::signals(),
        "children" => return roles::children(rest),
        "memory" => return roles::memory(rest),
        "fork-bomb" => return roles::fork_bomb(),
        "exe-attack" => return roles::exe_attack(),
        "fd-attack" => return roles::fd_attack(),
        "self-check" => println!("{}", std::process::id()),
        other => {
            eprintln!("probe: no role {other}");
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}
