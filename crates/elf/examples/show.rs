//! Prints what an object says: `show FILE.o...`. With `--btf OUT` the BTF that would be loaded is written too.

use ring3_elf::ObjectSpec;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut files = Vec::new();
    let mut btf_out = None;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--btf" => btf_out = args.next(),
            _ => files.push(arg),
        }
    }
    let mut status = ExitCode::SUCCESS;
    for file in files {
        let spec = std::fs::read(&file)
            .map_err(|error| error.to_string())
            .and_then(|bytes| ObjectSpec::parse(&bytes, &file).map_err(|error| error.to_string()));
        match spec {
            Ok(spec) => {
                print!("{spec}");
                if let (Some(out), Some(btf)) = (&btf_out, &spec.btf)
                    && let Err(error) = std::fs::write(out, btf.bytes())
                {
                    eprintln!("{out}: {error}");
                    status = ExitCode::FAILURE;
                }
            }
            Err(error) => {
                eprintln!("{file}: {error}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
