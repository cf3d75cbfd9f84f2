//! A program whose function may be traced: `ring3 trace --socket PATH OBJECT`, with the path that is this program's argument, attaches programs to it.

use std::{env, path::PathBuf, process::ExitCode};

use ring3::tracing::agent::default_path;

mod program;

fn main() -> ExitCode {
    let path = env::args_os().nth(1).map(PathBuf::from);
    match program::run(path.unwrap_or_else(|| default_path(std::process::id()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("traced: {error}");
            ExitCode::FAILURE
        }
    }
}
