//! `min-btf RELEASE=FILE...`: cuts the types that the fixtures need out of whole kernels' BTF, into fixtures/btf/vmlinux-RELEASE.btf.

use std::{fs, process::ExitCode};

use ring3_btf::Btf;
use ring3_testkit::{
    fixture::{elf_fixtures, fixtures_dir},
    min_btf::minimize,
};

fn run() -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let fixtures = elf_fixtures().map_err(text)?;
    let objects: Vec<_> = fixtures
        .iter()
        .map(|fixture| fixture.spec())
        .collect::<Result<_, _>>()
        .map_err(text)?;
    let folder = fixtures_dir().join("btf");
    fs::create_dir_all(&folder).map_err(text)?;
    for arg in std::env::args().skip(1) {
        let (release, file) = arg
            .split_once('=')
            .ok_or(format!("'{arg}' is not RELEASE=FILE"))?;
        let bytes = fs::read(file).map_err(|error| format!("{file}: {error}"))?;
        let kernel = Btf::parse(&bytes).map_err(|error| format!("{file}: {error}"))?;
        let small = minimize(&kernel, &objects);
        let parsed = Btf::parse(&small).map_err(|error| error.to_string())?;
        let name = format!("vmlinux-{release}.btf");
        println!(
            "fixtures/btf/{name}: {} of {} types, {} bytes",
            parsed.type_count() - 1,
            kernel.type_count() - 1,
            small.len()
        );
        fs::write(folder.join(name), small).map_err(text)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("min-btf: {message}");
            ExitCode::from(1)
        }
    }
}
