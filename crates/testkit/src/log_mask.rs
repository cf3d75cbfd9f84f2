//! Masking of what a verifier log may say differently on every run: the verification time, and addresses in two-slot
//! loads that the program did not carry itself, and numbers of bad descriptors. Everything else is compared to the byte.

use std::borrow::Cow;

use ring3_isa::RawInsn;

/// Behind the number of a descriptor that names no map; the number is the recording process's own.
const BAD_FD: &str = " is not pointing to valid bpf_map";

/// The log with times and kernel addresses replaced by `*`. `insns` is the program as loaded.
pub fn mask_log(log: &str, insns: &[RawInsn]) -> String {
    let mut masked = String::with_capacity(log.len());
    for line in log.lines() {
        masked.push_str(&mask_line(line, insns));
        masked.push('\n');
    }
    masked
}

fn mask_line<'a>(line: &'a str, insns: &[RawInsn]) -> Cow<'a, str> {
    if line.starts_with("verification time ") {
        return Cow::Borrowed("verification time * usec");
    }
    if line.starts_with("fd ") && line.ends_with(BAD_FD) {
        return Cow::Owned(format!("fd *{BAD_FD}"));
    }
    mask_address(line, insns).map_or(Cow::Borrowed(line), Cow::Owned)
}

/// `12: (18) r1 = 0xffff88810a2b3c00      ; R1=...`, also behind `mark_precise: frame0: ... before 12: `, and with the
/// live registers before it, `12: .1........ (18) r1 = ...`.
fn mask_address(line: &str, insns: &[RawInsn]) -> Option<String> {
    let op = line.find(" (18) r")?;
    let colon = line[..op].rfind(':')?;
    let index_start = line[..colon]
        .rfind(|c: char| !c.is_ascii_digit())
        .map_or(0, |i| i + 1);
    let index: usize = line[index_start..colon].parse().ok()?;
    if insns.get(index)?.src() == 0 {
        return None;
    }
    let value = op + line[op..].find(" = ")? + 3;
    let rest = &line[value..];
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(rest.len());
    // The state after it is aligned by the width of the address: one space stands for the padding.
    let tail = rest[end..].trim_start();
    Some(format!(
        "{}*{}{tail}",
        &line[..value],
        if tail.is_empty() { "" } else { " " }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_maps_are_masked_and_constants_are_not() {
        let insns = [
            RawInsn::new(0x18, 1, 1, 0, 3),
            RawInsn::default(),
            RawInsn::new(0x18, 2, 0, 0, 3),
        ];
        assert_eq!(
            mask_log(
                "0: (18) r1 = 0xffff888101234500      ; R1=map_ptr()\n2: (18) r2 = 0x3  ; R2=3\n",
                &insns
            ),
            "0: (18) r1 = * ; R1=map_ptr()\n2: (18) r2 = 0x3  ; R2=3\n"
        );
        assert_eq!(
            mask_log("      0: .1........ (18) r1 = 0xffffc90001230000\n", &insns),
            "      0: .1........ (18) r1 = *\n"
        );
        assert_eq!(
            mask_log("verification time 12 usec\n", &insns),
            "verification time * usec\n"
        );
    }
}
