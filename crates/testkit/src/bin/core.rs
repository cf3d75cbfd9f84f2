//! `core RELEASE RECORDED BTF`: instructions of the fixtures fitted to a BTF, beside what libbpf made of them.

use std::{path::Path, process::ExitCode};

use ring3_btf::Btf;
use ring3_testkit::core_oracle;

fn run(args: &[String]) -> Result<(), String> {
    let [release, recorded, btf] = args else {
        return Err("core RELEASE RECORDED BTF".to_owned());
    };
    let bytes = std::fs::read(btf).map_err(|error| format!("{btf}: {error}"))?;
    let kernel = Btf::parse(&bytes).map_err(|error| format!("{btf}: {error}"))?;
    let prepared = core_oracle::read(Path::new(recorded)).map_err(|error| error.to_string())?;
    let compared = core_oracle::compare(&prepared, &kernel).map_err(|error| error.to_string())?;
    println!(
        "{release}: {} of {} programs equal to libbpf's, with {} relocations; {} name kernel symbols, which libbpf takes from the running kernel",
        compared.equal,
        prepared.len(),
        compared.relocations,
        compared.with_symbols
    );
    for difference in &compared.different {
        println!("  {difference}");
    }
    match compared.different.len() {
        0 => Ok(()),
        count => Err(format!("{release}: {count} programs differ")),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("core: {message}");
            ExitCode::from(1)
        }
    }
}
