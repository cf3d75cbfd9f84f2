//! Masking of what a verifier log may say differently on every run: the verification time, addresses in two-slot loads
//! that the program did not carry itself, numbers of bad descriptors, and ids of kernel types, which differ between a
//! kernel's BTF and a part of it. Everything else is compared to the byte.

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
    // A message without a line end stands before the time.
    if let Some(at) = line.find("verification time ")
        && line.ends_with(" usec")
    {
        return Cow::Owned(format!("{}verification time * usec", &line[..at]));
    }
    if line.starts_with("fd ") && line.ends_with(BAD_FD) {
        return Cow::Owned(format!("fd *{BAD_FD}"));
    }
    let masked = mask_address(line, insns)
        .or_else(|| mask_type_id(line))
        .or_else(|| mask_kfunc(line, insns));
    masked.map_or(Cow::Borrowed(line), Cow::Owned)
}

/// `func 'f' arg0 has btf_id 123 type STRUCT 's'`.
fn mask_type_id(line: &str) -> Option<String> {
    const BEFORE: &str = " has btf_id ";
    let start = line.find(BEFORE)? + BEFORE.len();
    let end = start + line[start..].find(" type ")?;
    Some(format!("{}*{}", &line[..start], &line[end..]))
}

/// `12: (85) call bpf_task_release#65900`: the number of a kernel function is a type id.
fn mask_kfunc(line: &str, insns: &[RawInsn]) -> Option<String> {
    let op = line.find(" (85) call ")?;
    if insns.get(insn_index(line, op)?)?.src() != 2 {
        return None;
    }
    let start = op + line[op..].find('#')? + 1;
    let digits = line[start..]
        .chars()
        .take_while(char::is_ascii_digit)
        .count();
    // The state after it is aligned by the width of the number: one space stands for the padding.
    let tail = line[start + digits..].trim_start();
    Some(format!(
        "{}*{}{tail}",
        &line[..start],
        if tail.is_empty() { "" } else { " " }
    ))
}

/// The slot that stands before the colon left of `op`.
fn insn_index(line: &str, op: usize) -> Option<usize> {
    let colon = line[..op].rfind(':')?;
    let start = line[..colon]
        .rfind(|c: char| !c.is_ascii_digit())
        .map_or(0, |i| i + 1);
    line[start..colon].parse().ok()
}

/// `12: (18) r1 = 0xffff88810a2b3c00      ; R1=...`, also behind `mark_precise: frame0: ... before 12: `, and with the
/// live registers before it, `12: .1........ (18) r1 = ...`.
fn mask_address(line: &str, insns: &[RawInsn]) -> Option<String> {
    let op = line.find(" (18) r")?;
    if insns.get(insn_index(line, op)?)?.src() == 0 {
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
        let kfunc = [RawInsn::new(0x85, 0, 2, 0, 65900)];
        assert_eq!(
            mask_log(
                "0: (85) call bpf_task_release#65900        ; R0=1\n",
                &kfunc
            ),
            "0: (85) call bpf_task_release#* ; R0=1\n"
        );
        assert_eq!(
            mask_log("func 'f' arg0 has btf_id 123 type STRUCT 's'\n", &kfunc),
            "func 'f' arg0 has btf_id * type STRUCT 's'\n"
        );
        assert_eq!(
            mask_log("verification time 12 usec\n", &insns),
            "verification time * usec\n"
        );
    }
}
