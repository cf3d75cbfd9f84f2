//! What usually helps: the rule's words, and the remedy. One table; the first row whose words all occur wins.

/// Words that must all occur in the verifier's text, and what to do.
const ADVICE: &[(&[&str], &str)] = &[
    (
        &["invalid mem access", "_or_null"],
        "a pointer that a helper returned may be null: compare it before it is used, `if (!p) return 0;`",
    ),
    (
        &["Possibly NULL pointer passed"],
        "compare the pointer with null before it is passed on",
    ),
    (
        &["invalid mem access 'scalar'"],
        "this is a number, not a pointer: after arithmetic or a load from memory the verifier no longer knows it as one. Kernel memory is read with bpf_probe_read_kernel() or through a BTF type",
    ),
    (
        &["invalid mem access"],
        "memory cannot be reached through this kind of pointer; a helper may read or write it",
    ),
    (
        &["invalid access to packet"],
        "compare with the packet's end first: `if ((void *)(p + 1) > data_end) return ...;`, with the pointer that is then used",
    ),
    (
        &["unbounded", "memory"],
        "give the number an upper bound before it is used as a size or an offset: `if (n > MAX) return 0;`, or `n &= MAX - 1` with a power of two",
    ),
    (
        &["unbounded min value"],
        "bound the number before it is added to a pointer: `if (i >= N) return 0;` with an unsigned type, or `i &= N - 1`",
    ),
    (
        &["min value is negative"],
        "use an unsigned type, or compare with 0 first: as far as the verifier knows the number may be negative",
    ),
    (
        &["outside of the allowed memory range"],
        "compare the index with the number of elements before it is used: `if (i >= N) return 0;`, in the same variable",
    ),
    (
        &["invalid access to map value"],
        "the access ends behind the map's value: compare the index with the number of elements first, and the value's type with the map's value_size",
    ),
    (
        &["invalid access to"],
        "the access lies outside of the object: compare offset and size with its size first",
    ),
    (
        &["!read_ok"],
        "give the variable a value on every path; registers r1 to r5 have none after a call",
    ),
    (
        &["invalid", "read from stack"],
        "initialise the variable first, the padding of structures included: `struct key k = {};`",
    ),
    (
        &["invalid", "write to stack"],
        "the access lies outside of the stack's 512 bytes or of the variable: check the index against the array",
    ),
    (
        &["misaligned stack access"],
        "align the variable to its size; packed structures on the stack are accessed bytewise",
    ),
    (
        &["misaligned"],
        "access the data bytewise, or with an alignment that divides its size",
    ),
    (
        &["stack size"],
        "512 bytes hold the stacks of all functions on a chain of calls: keep big data in a per-CPU array map",
    ),
    (
        &["infinite loop detected"],
        "a turn of this loop changes nothing that the verifier follows: count in a variable that it does, or use bpf_for(), bpf_repeat() or bpf_loop()",
    ),
    (
        &["back-edge"],
        "without privilege loops are not allowed: let the compiler unroll them, `#pragma unroll`",
    ),
    (
        &["BPF program is too large"],
        "there are too many paths: move the body of a loop into a bpf_loop() callback or use bpf_for(), and move parts into global functions, which are verified once",
    ),
    (
        &["The sequence of", "jumps is too complex"],
        "there are too many branches at once: move parts into global functions, or a loop's body into a bpf_loop() callback",
    ),
    (
        &["Unreleased reference"],
        "give the object back on every path: bpf_ringbuf_submit() or bpf_ringbuf_discard(), bpf_sk_release(), ...",
    ),
    (
        &["reference leak"],
        "give the object back on every path: bpf_ringbuf_submit() or bpf_ringbuf_discard(), bpf_sk_release(), ...",
    ),
    (
        &["At program exit the register R0"],
        "return a value that programs of this type may return; make sure that it is in range on every path",
    ),
    (
        &["cannot call GPL-restricted function"],
        "declare the licence: `char LICENSE[] SEC(\"license\") = \"GPL\";`",
    ),
    (
        &["program of this type cannot use helper"],
        "the helper is for other program types or attach types: check the program's section, and the list in bpf-helpers(7)",
    ),
    (
        // What libbpf puts in place of an instruction that a relocation could not complete.
        &["invalid func unknown#195896080"],
        "the kernel's types lack what this access needs: guard it with bpf_core_field_exists() or bpf_core_type_exists()",
    ),
    (
        &["failed to find the address for kernel symbol"],
        "this kernel has no such symbol: declare it `__weak` and test its address first",
    ),
    (
        &["access beyond struct"],
        "the access lies outside of the kernel's structure: use the fields of its type",
    ),
    (
        &["only read is supported"],
        "kernel objects are written by helpers and kernel functions only",
    ),
    (
        &["invalid func unknown"],
        "the kernel has no such helper: check the number, and the kernel version it came with",
    ),
    (
        &["helper call might sleep"],
        "load the program as sleepable (a section that ends in `.s`), or use a helper that does not sleep",
    ),
    (
        &["invalid bpf_context access"],
        "programs of this type cannot access this part of their context, not at this size, or not for writing",
    ),
    (
        &["dereference of modified ctx ptr"],
        "access the context at constant offsets from the pointer the program was given",
    ),
    (
        &["pointer arithmetic"],
        "pointers allow only `+` and `-` with 64-bit numbers; compute with the index instead, and add it once",
    ),
    (
        &["pointer comparison prohibited"],
        "without CAP_PERFMON addresses must not be compared: compare indices",
    ),
    (
        &["leak"],
        "an address must not reach memory that user space can read: store the data, or an index",
    ),
    (
        &["while holding a lock"],
        "make the call before bpf_spin_lock() or after bpf_spin_unlock()",
    ),
    (
        &["bpf_spin_unlock is missing"],
        "unlock on every path that leaves the section",
    ),
    (
        &["type=", "expected="],
        "pass what the helper's prototype asks for; a number that should be a pointer often comes from arithmetic or from a cast",
    ),
    (
        &["Caller passes invalid args into func"],
        "the callee is verified for any argument of its declared type: pass what the type promises, or tag the parameter (`__arg_nonnull`, `__arg_ctx`)",
    ),
    (
        &["unreachable insn"],
        "no path leads to this code: remove it",
    ),
    (
        &["cannot write into", "rdonly"],
        "the memory is read-only: copy it, or declare the variable without `const`",
    ),
    (
        &["failed to resolve CO-RE relocation"],
        "guard the access with bpf_core_field_exists() or bpf_core_type_exists()",
    ),
];

/// What usually helps against a rejection with this text; `None` if nothing general can be said.
pub fn advice_for(text: &str) -> Option<&'static str> {
    let row = ADVICE
        .iter()
        .find(|(words, _)| words.iter().all(|word| text.contains(word)));
    row.map(|&(_, advice)| advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_particular_advice_wins() {
        let null = advice_for("R0 invalid mem access 'map_value_or_null'");
        assert!(null.is_some_and(|advice| advice.contains("may be null")));
        assert_ne!(null, advice_for("R1 invalid mem access 'scalar'"));
        assert_eq!(advice_for("something new"), None);
    }

    #[test]
    fn no_row_hides_a_later_one() {
        for (i, (words, _)) in ADVICE.iter().enumerate() {
            let hidden_by = ADVICE[..i].iter().find(|(earlier, _)| {
                earlier
                    .iter()
                    .all(|word| words.iter().any(|own| own.contains(word)))
            });
            assert!(hidden_by.is_none(), "{words:?} behind {hidden_by:?}");
        }
    }
}
