//! Prints the types of a BTF file: `dump raw|c FILE`.

use ring3_btf::{Btf, dump};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [format, file] = args.as_slice() else {
        return Err("dump raw|c FILE".into());
    };
    let btf = Btf::parse(&std::fs::read(file)?)?;
    let mut out = String::new();
    match format.as_str() {
        "raw" => dump::raw(&btf, &mut out)?,
        _ => dump::c(&btf, &mut out)?,
    }
    print!("{out}");
    Ok(())
}
