//! Measures parsing (with both indices) and look-ups of a BTF file, best of RUNS: `parse_time FILE [RUNS]`.

use ring3_btf::{Btf, Kind};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let file = args.next().ok_or("parse_time FILE [RUNS]")?;
    let runs: u32 = args.next().map_or(Ok(30), |runs| runs.parse())?;
    let bytes = std::fs::read(&file)?;
    let mut btf = Btf::parse(&bytes)?;
    let mut best = None;
    for _ in 0..runs {
        let start = Instant::now();
        btf = Btf::parse(&bytes)?;
        let took = start.elapsed();
        best = Some(best.map_or(took, |best: std::time::Duration| best.min(took)));
    }
    println!(
        "parse and index {:?} at best of {runs}, {} types, {} bytes",
        best.unwrap_or_default(),
        btf.type_count() - 1,
        bytes.len()
    );
    let names: Vec<(String, Kind)> = btf
        .types()
        .filter(|ty| !ty.name().is_empty() && ty.kind() != Kind::DeclTag)
        .map(|ty| (ty.name().to_string(), ty.kind()))
        .collect();
    let start = Instant::now();
    let found = names
        .iter()
        .filter(|(name, kind)| btf.find_by_name_kind(name, *kind).is_some())
        .count();
    println!(
        "look-up {:?} each, {found} of {} found",
        start.elapsed() / names.len().max(1) as u32,
        names.len()
    );
    Ok(())
}
