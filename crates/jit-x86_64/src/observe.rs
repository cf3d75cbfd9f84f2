//! Names for compiled code: `/tmp/perf-PID.map` for perf, and GDB's JIT interface.
//!
//! ```text
//! perf   one line per function, `START SIZE NAME` in hexadecimal, appended; perf reads it when it reports
//! gdb    an ELF image in memory per program: .text where the code is (no bytes of its own), and a symbol per function
//! ```
//!
//! # Source
//! `tools/perf/Documentation/jit-interface.txt` of Linux; "JIT Compilation Interface" of the GDB manual.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};

use crate::Compiled;

/// Who is told where compiled code is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observe {
    /// perf: functions are named in `/tmp/perf-PID.map`.
    pub perf_map: bool,
    /// A debugger that is attached, now or later, gets symbols.
    pub gdb: bool,
}

/// A function of compiled code.
#[derive(Debug)]
struct Symbol {
    address: usize,
    len_bytes: usize,
    name: String,
}

impl Compiled {
    /// Tells those asked for where the functions are. `names` are the functions' in order; a missing one is named by its number.
    ///
    /// # Errors
    /// The map file cannot be written.
    pub fn announce(&self, names: &[String], observe: Observe) -> io::Result<()> {
        let starts: Vec<usize> = (0..self.function_count())
            .map(|function| self.function_address(function))
            .collect();
        let end = self.text().address() + self.len_bytes();
        let symbols: Vec<Symbol> = starts
            .iter()
            .enumerate()
            .map(|(function, &address)| Symbol {
                address,
                len_bytes: starts.get(function + 1).copied().unwrap_or(end) - address,
                name: match names.get(function) {
                    Some(name) => name.clone(),
                    None => format!("bpf_prog_F{function}"),
                },
            })
            .collect();
        if observe.perf_map {
            perf_lines(&symbols)?;
        }
        if observe.gdb {
            let image = gdb::image(self.text().address(), self.len_bytes(), &symbols);
            self.set_debug_entry(|| gdb::register(image));
        }
        Ok(())
    }
}

/// The process that the file was opened for, and the file: a child after a fork has a map of its own.
static PERF_MAP: Mutex<Option<(u32, File)>> = Mutex::new(None);

fn perf_lines(symbols: &[Symbol]) -> io::Result<()> {
    const O_NOFOLLOW: i32 = 0o400_000;
    let mut map = PERF_MAP.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    if map.as_ref().is_none_or(|(of, _)| *of != pid) {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            .custom_flags(O_NOFOLLOW)
            .open(format!("/tmp/perf-{pid}.map"))?;
        *map = Some((pid, file));
    }
    let mut lines = String::new();
    for symbol in symbols {
        lines.push_str(&format!(
            "{:x} {:x} {}\n",
            symbol.address, symbol.len_bytes, symbol.name
        ));
    }
    match map.as_mut() {
        Some((_, file)) => file.write_all(lines.as_bytes()),
        None => Ok(()),
    }
}

pub(crate) mod gdb {
    //! The list that a debugger walks, and the images in it.

    use std::ptr::null_mut;
    use std::sync::{Mutex, PoisonError};

    use super::Symbol;

    const REGISTER: u32 = 1;
    const UNREGISTER: u32 = 2;

    /// `struct jit_code_entry`
    #[derive(Debug)]
    #[repr(C)]
    struct Entry {
        next: *mut Entry,
        previous: *mut Entry,
        image: *const u8,
        image_bytes: u64,
    }

    /// `struct jit_descriptor`
    #[repr(C)]
    struct Descriptor {
        version: u32,
        action: u32,
        relevant: *mut Entry,
        first: *mut Entry,
    }

    // Weak: another compiler in the process may define them too, and a debugger looks at one list.
    std::arch::global_asm!(
        ".pushsection .text.__jit_debug_register_code,\"ax\",@progbits",
        ".weak __jit_debug_register_code",
        ".type __jit_debug_register_code,@function",
        "__jit_debug_register_code:",
        "ret",
        ".size __jit_debug_register_code, . - __jit_debug_register_code",
        ".popsection",
        ".pushsection .data.__jit_debug_descriptor,\"aw\",@progbits",
        ".balign 8",
        ".weak __jit_debug_descriptor",
        ".type __jit_debug_descriptor,@object",
        "__jit_debug_descriptor:",
        ".long 1",
        ".long 0",
        ".quad 0",
        ".quad 0",
        ".size __jit_debug_descriptor, . - __jit_debug_descriptor",
        ".popsection",
    );

    unsafe extern "C" {
        static mut __jit_debug_descriptor: Descriptor;
        fn __jit_debug_register_code();
    }

    static LIST: Mutex<()> = Mutex::new(());

    /// An image that debuggers know until this is dropped.
    #[derive(Debug)]
    pub(crate) struct Registered {
        entry: *mut Entry,
        _image: Box<[u8]>,
    }

    // SAFETY: 1. the entry is touched only under `LIST`.
    unsafe impl Send for Registered {}
    // SAFETY: as above.
    unsafe impl Sync for Registered {}

    /// Links an image and tells a debugger.
    pub(crate) fn register(image: Vec<u8>) -> Registered {
        let image = image.into_boxed_slice();
        let entry = Box::into_raw(Box::new(Entry {
            next: null_mut(),
            previous: null_mut(),
            image: image.as_ptr(),
            image_bytes: image.len() as u64,
        }));
        let _list = LIST.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: 1. the list is ours under the lock; its entries are live until they are unlinked; 2. the function does nothing but be
        // there for a breakpoint.
        unsafe {
            let descriptor = &raw mut __jit_debug_descriptor;
            (*entry).next = (*descriptor).first;
            if !(*entry).next.is_null() {
                (*(*entry).next).previous = entry;
            }
            (*descriptor).first = entry;
            (*descriptor).relevant = entry;
            (*descriptor).action = REGISTER;
            __jit_debug_register_code();
        }
        Registered {
            entry,
            _image: image,
        }
    }

    impl Drop for Registered {
        fn drop(&mut self) {
            let _list = LIST.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: 1. as in `register`; 2. the entry came from a box and is unlinked before it is freed.
            unsafe {
                let descriptor = &raw mut __jit_debug_descriptor;
                let (next, previous) = ((*self.entry).next, (*self.entry).previous);
                if !next.is_null() {
                    (*next).previous = previous;
                }
                if previous.is_null() {
                    (*descriptor).first = next;
                } else {
                    (*previous).next = next;
                }
                (*descriptor).relevant = self.entry;
                (*descriptor).action = UNREGISTER;
                __jit_debug_register_code();
                drop(Box::from_raw(self.entry));
            }
        }
    }

    /// The images that are registered, for tests.
    #[cfg(test)]
    pub(crate) fn images() -> Vec<Vec<u8>> {
        let _list = LIST.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        // SAFETY: 1. as in `register`; images are live while their entries are linked.
        unsafe {
            let mut entry = __jit_debug_descriptor.first;
            while !entry.is_null() {
                let bytes =
                    std::slice::from_raw_parts((*entry).image, (*entry).image_bytes as usize);
                found.push(bytes.to_vec());
                entry = (*entry).next;
            }
        }
        found
    }

    const HEADER_BYTES: u64 = 64;
    const SECTION_BYTES: u64 = 64;
    const SYMBOL_BYTES: u64 = 24;

    struct Section {
        name: u32,
        kind: u32,
        flags: u64,
        address: u64,
        offset: u64,
        len_bytes: u64,
        link: u32,
        info: u32,
        align: u64,
        entry_bytes: u64,
    }

    fn put<const N: usize>(image: &mut Vec<u8>, bytes: [u8; N]) {
        image.extend_from_slice(&bytes);
    }

    /// An ELF file of one text section at its place, and its symbols.
    pub(super) fn image(address: usize, len_bytes: usize, symbols: &[Symbol]) -> Vec<u8> {
        const NOBITS: u32 = 8;
        const NAMES: &[u8] = b"\0.text\0.symtab\0.strtab\0";
        let mut strings = vec![0u8];
        let mut table = vec![0u8; SYMBOL_BYTES as usize];
        for symbol in symbols {
            put(&mut table, (strings.len() as u32).to_le_bytes());
            // A global function in section 1.
            put(&mut table, [0x12, 0, 1, 0]);
            put(&mut table, (symbol.address as u64).to_le_bytes());
            put(&mut table, (symbol.len_bytes as u64).to_le_bytes());
            strings.extend_from_slice(symbol.name.as_bytes());
            strings.push(0);
        }
        // One table of strings for symbols and sections.
        let names_at = strings.len() as u32;
        strings.extend_from_slice(NAMES);
        let table_at = HEADER_BYTES + 4 * SECTION_BYTES;
        let strings_at = table_at + table.len() as u64;
        let none = Section {
            name: 0,
            kind: 0,
            flags: 0,
            address: 0,
            offset: 0,
            len_bytes: 0,
            link: 0,
            info: 0,
            align: 0,
            entry_bytes: 0,
        };
        let sections = [
            Section { ..none },
            Section {
                name: names_at + 1,
                kind: NOBITS,
                flags: 6,
                address: address as u64,
                offset: HEADER_BYTES,
                len_bytes: len_bytes as u64,
                align: 64,
                ..none
            },
            Section {
                name: names_at + 7,
                kind: 2,
                offset: table_at,
                len_bytes: table.len() as u64,
                link: 3,
                info: 1,
                align: 8,
                entry_bytes: SYMBOL_BYTES,
                ..none
            },
            Section {
                name: names_at + 15,
                kind: 3,
                offset: strings_at,
                len_bytes: strings.len() as u64,
                align: 1,
                ..none
            },
        ];
        let mut image = Vec::with_capacity((strings_at as usize) + strings.len());
        // ELF64, little endian; executable, x86-64: symbols hold addresses.
        image.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        put(&mut image, 2u16.to_le_bytes());
        put(&mut image, 62u16.to_le_bytes());
        put(&mut image, 1u32.to_le_bytes());
        put(&mut image, (address as u64).to_le_bytes());
        put(&mut image, 0u64.to_le_bytes());
        put(&mut image, HEADER_BYTES.to_le_bytes());
        put(&mut image, 0u32.to_le_bytes());
        for field in [64u16, 0, 0, SECTION_BYTES as u16, sections.len() as u16, 3] {
            put(&mut image, field.to_le_bytes());
        }
        for section in sections {
            put(&mut image, section.name.to_le_bytes());
            put(&mut image, section.kind.to_le_bytes());
            for field in [
                section.flags,
                section.address,
                section.offset,
                section.len_bytes,
            ] {
                put(&mut image, field.to_le_bytes());
            }
            put(&mut image, section.link.to_le_bytes());
            put(&mut image, section.info.to_le_bytes());
            put(&mut image, section.align.to_le_bytes());
            put(&mut image, section.entry_bytes.to_le_bytes());
        }
        image.extend_from_slice(&table);
        image.extend_from_slice(&strings);
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, compile};

    fn compiled() -> Compiled {
        let program = "r0 = 1\n call function\n exit\nfunction: r0 = 2\n if r1 == r2 goto out\n r0 = 3\nout: exit";
        let insns = ring3_isa::parse_asm(program, &ring3_isa::NoNames)
            .unwrap()
            .insns;
        let linked = ring3_runtime::Linked::unverified(insns, &|_| None).unwrap();
        compile(&linked, &Options::default()).unwrap()
    }

    #[test]
    fn perf_is_told_every_function() {
        let compiled = compiled();
        let observe = Observe {
            perf_map: true,
            gdb: false,
        };
        let name = format!("bpf_prog_{:x}_main", compiled.function_address(0));
        compiled
            .announce(std::slice::from_ref(&name), observe)
            .unwrap();
        let map = std::fs::read_to_string(format!("/tmp/perf-{}.map", std::process::id())).unwrap();
        let len = compiled.function_address(1) - compiled.function_address(0);
        let line = format!("{:x} {len:x} {name}", compiled.function_address(0));
        let mut lines = map.lines().skip_while(|known| **known != line);
        assert_eq!(lines.next(), Some(&*line), "{map}");
        let second = format!("{:x} ", compiled.function_address(1));
        let next = lines.next().unwrap();
        assert!(
            next.starts_with(&second) && next.ends_with(" bpf_prog_F1"),
            "{next}"
        );
    }

    #[test]
    fn a_debugger_finds_symbols_until_the_code_goes() {
        let compiled = compiled();
        let observe = Observe {
            perf_map: false,
            gdb: true,
        };
        let name = format!("bpf_prog_{:x}_debugged", compiled.function_address(0));
        compiled
            .announce(std::slice::from_ref(&name), observe)
            .unwrap();
        let has = |image: &Vec<u8>| {
            image
                .windows(name.len())
                .any(|window| window == name.as_bytes())
        };
        let images = gdb::images();
        let image = images.iter().find(|image| has(image)).unwrap();
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| image[at + byte]));
        // The text section's address, and the first symbol's.
        assert_eq!(word(64 + 64 + 16), compiled.text().address() as u64);
        let table = word(64 + 2 * 64 + 24) as usize;
        assert_eq!(word(table + 24 + 8), compiled.function_address(0) as u64);
        drop(compiled);
        assert!(!gdb::images().iter().any(has));
    }
}
