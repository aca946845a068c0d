//! Load generator and null model server: what the gateway is measured with.
//!
//! ```text
//!   run (core 1)  ──requests──▶  a gateway (core 0)  ──▶  upstream (core 1)
//! ```
//! Each is one thread around one poll, so that a core carries both and the gateway keeps the other to itself.

mod alarm;
mod chunked;
mod cli;
mod clock;
mod connection;
mod events;
mod histogram;
mod http;
mod load;
mod mix;
mod payload;
mod report;
mod upstream;

use std::process::ExitCode;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("budgateway-load: {error}\nTry: budgateway-load --help");
            return ExitCode::from(2);
        }
    };
    allow_many_descriptors();
    let ended = match command {
        cli::Command::Help(text) => {
            println!("{text}");
            Ok(true)
        }
        cli::Command::Upstream(options) => upstream::serve(&options).map(|()| true),
        cli::Command::Run(options) => load::run(&options).map(|report| {
            println!("{}", report.json());
            report.clean()
        }),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("budgateway-load: {error}");
            ExitCode::from(2)
        }
    }
}

/// Raises the soft limit to the hard one: ten thousand streams need as many descriptors.
fn allow_many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    // Refused in some sandboxes; the run then says so itself when descriptors run out.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
