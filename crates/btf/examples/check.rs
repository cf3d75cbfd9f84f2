//! Checks blobs as `BPF_BTF_LOAD` does: `check FILE` reads `[u32 length][bytes]...`, prints errno and escaped log for each.
//! With `--kernel BTF` tagged pointers may refer to that BTF's structs.

use ring3_btf::check::{CheckOptions, check};
use ring3_btf::record::DESTRUCTIBLE_6_18;
use ring3_btf::{Btf, KernelTypes};
use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let bytes = std::fs::read(args.first().ok_or("check FILE [--kernel BTF]")?)?;
    let kernel_btf = match args.get(2) {
        Some(file) => Some(Btf::parse(&std::fs::read(file)?)?),
        None => None,
    };
    let kernel = kernel_btf.as_ref().map(|btf| KernelTypes {
        btf,
        destructible: DESTRUCTIBLE_6_18,
    });
    let mut out = std::io::BufWriter::new(std::io::stdout());
    let mut rest = bytes.as_slice();
    while let Some((len, tail)) = rest.split_at_checked(4) {
        let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize;
        let Some((blob, tail)) = tail.split_at_checked(len) else {
            break;
        };
        rest = tail;
        let mut log = String::new();
        let verdict = check(blob, CheckOptions { base: None, kernel }, Some(&mut log));
        let errno = verdict.map_or_else(|errno| errno.raw(), |_| 0);
        writeln!(
            out,
            "{errno}\t{}",
            log.replace('\n', "\\n").replace('\t', "\\t")
        )?;
    }
    Ok(())
}
