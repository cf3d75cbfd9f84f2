//! Prints what an object says: `show FILE.o...`. With `--btf OUT` the BTF that would be loaded is written too, with
//! `--target BTF` programs are resolved against a kernel's types.

use ring3_btf::Btf;
use ring3_elf::{ObjectSpec, Resolver, Target};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut files = Vec::new();
    let mut btf_out = None;
    let mut target = None;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--btf" => btf_out = args.next(),
            "--target" => {
                target = args
                    .next()
                    .and_then(|file| std::fs::read(file).ok())
                    .and_then(|bytes| Btf::parse(&bytes).ok());
            }
            _ => files.push(arg),
        }
    }
    let mut status = ExitCode::SUCCESS;
    for file in files {
        let spec = std::fs::read(&file)
            .map_err(|error| error.to_string())
            .and_then(|bytes| ObjectSpec::parse(&bytes, &file).map_err(|error| error.to_string()));
        match spec {
            Ok(mut spec) => {
                if target.is_some() {
                    let object = spec.clone();
                    let symbols = |_: &str| Some(0x1000);
                    let mut resolver = Resolver::new(
                        &object,
                        Target {
                            btf: target.as_ref(),
                            symbols: Some(&symbols),
                        },
                    );
                    for prog in &mut spec.progs {
                        match resolver.insns(prog) {
                            Ok(insns) => prog.insns = insns,
                            Err(error) => eprintln!("{file}: {error}"),
                        }
                        if let Err(error) = resolver.attach_btf_id(prog) {
                            eprintln!("{file}: {error}");
                        }
                    }
                }
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
