//! Iterators: programs that run once per object and write a text (`bpf_seq_write`, `bpf_seq_printf`). The one place that promises such a program the objects
//! of the kind it was loaded for.
//!
//! A program's context is a row of pointers: `bpf_iter_meta`, then the object or, for the elements of a map, the map, the key and the value. Once all objects
//! are done it runs a last time, without one.
//!
//! Key types: [`IterRun`], [`KernelObject`].

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use ring3_btf::{Btf, layout};
use ring3_maps::{Access, Map};
use ring3_runtime::{
    IteratorTarget, ProgObject, RunContext, run, with_run_context, with_run_extension,
};
use ring3_sync::rcu;
use ring3_uapi::{Errno, MapType, flags::map_create};

use crate::bind::{bytes, implement};
use crate::format::{ArgWords, format};

/// Bytes that one object's text may have. Source: eight pages, of which one byte stays free.
pub(crate) const OBJECT_BYTES_MAX: usize = 8 * 4096 - 1;
/// Bytes that all text of a run may have.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// Words of `struct seq_file` and of the structures that programs see, at least: more than any kernel's.
const STRUCT_WORDS_MIN: usize = 512;

/// An object of the kernel as programs see it: zeros but for what is put into it, at the places that a BTF says.
pub struct KernelObject {
    btf: Btf,
    name: &'static str,
    words: Box<[u64]>,
    parts: Vec<KernelObject>,
}

impl KernelObject {
    /// Zeros.
    pub fn new(btf: &Btf, name: &'static str) -> KernelObject {
        let bytes = layout::struct_size(Some(btf), name).unwrap_or(0) as usize;
        KernelObject {
            btf: btf.clone(),
            name,
            words: vec![0; bytes.div_ceil(8).max(STRUCT_WORDS_MIN)].into(),
            parts: Vec::new(),
        }
    }

    /// Puts bytes into a field, as many as both have; a field that the structure does not have is left out.
    #[must_use]
    pub fn with(mut self, path: &str, value: &[u8]) -> KernelObject {
        if let Some(field) = layout::field(Some(&self.btf), self.name, path)
            && field.bits == 0
        {
            let at = field.offset as usize;
            for (index, byte) in value.iter().take(field.size as usize).enumerate() {
                let (word, shift) = ((at + index) / 8, (at + index) % 8 * 8);
                if let Some(word) = self.words.get_mut(word) {
                    *word = *word & !(0xff << shift) | u64::from(*byte) << shift;
                }
            }
        }
        self
    }

    /// Lets a pointer point to another object.
    #[must_use]
    pub fn pointing(self, path: &str, to: KernelObject) -> KernelObject {
        let address = to.address();
        let mut object = self.with(path, &address.to_ne_bytes());
        object.parts.push(to);
        object
    }

    fn address(&self) -> u64 {
        self.words.as_ptr().expose_provenance() as u64
    }
}

/// The text of the object at hand and of those before it.
#[derive(Default)]
struct Text(Mutex<TextState>);

#[derive(Default)]
struct TextState {
    bytes: Vec<u8>,
    /// Where the object at hand begins.
    object: usize,
    is_too_long: bool,
}

impl Text {
    /// # Errors
    /// EOVERFLOW: the object's text is too long.
    fn append(&self, bytes: &[u8]) -> Result<(), Errno> {
        let mut text = self.0.lock();
        let len = text.bytes.len() - text.object + bytes.len();
        if text.is_too_long || len > OBJECT_BYTES_MAX {
            text.is_too_long = true;
            return Err(Errno::EOVERFLOW);
        }
        text.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

/// One run over all objects.
pub struct IterRun<'a> {
    prog: &'a dyn ProgObject,
    name: String,
    text: Text,
    seq: Box<[u64]>,
    /// `struct bpf_iter_meta`: the file, the session, the number of the object.
    meta: Box<[u64; 3]>,
}

impl<'a> IterRun<'a> {
    /// A run of a program that was loaded for an iterator.
    ///
    /// # Errors
    /// EINVAL: any other program.
    pub fn new(prog: &'a dyn ProgObject) -> Result<IterRun<'a>, Errno> {
        static SESSIONS: AtomicU64 = AtomicU64::new(1);
        let target = prog.iterates().ok_or(Errno::EINVAL)?;
        let seq = vec![0; STRUCT_WORDS_MIN].into_boxed_slice();
        let address = seq.as_ptr().expose_provenance() as u64;
        let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
        Ok(IterRun {
            prog,
            name: target.name,
            text: Text::default(),
            seq,
            meta: Box::new([address, session, 0]),
        })
    }

    /// Shows the program a map (`bpf_map`), or at the end none.
    ///
    /// # Errors
    /// EINVAL: it goes over something else. EAGAIN: it did not want the object now. E2BIG: the object's text is too long.
    pub fn map(&mut self, map: Option<&Map>) -> Result<(), Errno> {
        self.show("bpf_map", &[map.map_or(0, Map::program_ptr)], map.is_some())
    }

    /// Shows the program an object of the kernel (`bpf_prog`, `bpf_link`), or at the end none. The object is one of this name's structure.
    ///
    /// # Errors
    /// As [`IterRun::map`].
    pub fn object(
        &mut self,
        name: &'static str,
        object: Option<&KernelObject>,
    ) -> Result<(), Errno> {
        if object.is_some_and(|object| object.name != name) {
            return Err(Errno::EINVAL);
        }
        let address = object.map_or(0, KernelObject::address);
        self.show(name, &[address], object.is_some())
    }

    /// Shows the program every element of a map (`bpf_map_elem`), and at the end the map alone.
    ///
    /// # Errors
    /// As [`IterRun::map`]. EINVAL: a map whose elements are not walked. EACCES: the program reaches beyond its keys or values.
    pub fn elements(&mut self, map: &Map) -> Result<(), Errno> {
        check_map(self.prog, map)?;
        let this = map.program_ptr();
        let mut copy = vec![0u64; map.sys_value_bytes().div_ceil(8)];
        let mut key_copy = vec![0; map.key_size() as usize];
        // What programs must not write they get a copy of.
        let is_copied = is_percpu(map.map_type()) || map.map_flags() & map_create::RDONLY_PROG != 0;
        let mut outcome = Ok(());
        let mut visit = |key: *const u8, value: *mut u8| {
            let mut value = value.expose_provenance() as u64;
            if is_copied {
                // SAFETY: 1. the walk gives keys of the map's size.
                let key = unsafe { std::slice::from_raw_parts(key, key_copy.len()) };
                key_copy.copy_from_slice(key);
                let mut bytes = vec![0; map.sys_value_bytes()];
                if map
                    .sys_lookup(Access::ReadWrite, &key_copy, &mut bytes, 0)
                    .is_err()
                {
                    return ControlFlow::Continue(());
                }
                bytes.resize(copy.len() * 8, 0);
                for (word, bytes) in copy.iter_mut().zip(bytes.as_chunks::<8>().0) {
                    *word = u64::from_ne_bytes(*bytes);
                }
                value = copy.as_mut_ptr().expose_provenance() as u64;
            }
            let words = [this, key.expose_provenance() as u64, value];
            outcome = self.show("bpf_map_elem", &words, true);
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        {
            let _section = rcu::read();
            // SAFETY: 1. in a read section.
            unsafe { map.for_each(&mut visit)? };
        }
        outcome?;
        self.show("bpf_map_elem", &[this, 0, 0], false)
    }

    fn show(&mut self, name: &str, objects: &[u64], counts: bool) -> Result<(), Errno> {
        if name != self.name {
            return Err(Errno::EINVAL);
        }
        let mut words = [0; 4];
        words[0] = self.meta.as_ptr().expose_provenance() as u64;
        words[1..=objects.len()].copy_from_slice(objects);
        let start = {
            let mut text = self.text.0.lock();
            text.object = text.bytes.len();
            text.object
        };
        let context = RunContext {
            extension: Some(&self.text),
            ..RunContext::default()
        };
        let address = words.as_ptr().expose_provenance() as u64;
        // SAFETY: 1. the program is borrowed; 2. it was loaded for the function `bpf_iter_NAME`, whose parameters the words are: a `bpf_iter_meta`, and
        // objects of the kinds that the callers have in their signatures, or none; 3. everything lives for the run; 4. keys and values are as long as it
        // reaches (`check_map`).
        let retval = with_run_context(&context, || unsafe {
            run(&self.prog.entry(), address) as u32
        });
        debug_assert!(!self.seq.is_empty());
        self.meta[2] += u64::from(counts);
        let mut text = self.text.0.lock();
        let error = match retval {
            _ if text.is_too_long || text.bytes.len() > TEXT_BYTES_MAX => Errno::E2BIG,
            0 => return Ok(()),
            _ => Errno::EAGAIN,
        };
        text.bytes.truncate(start);
        Err(error)
    }

    /// What was written.
    pub fn into_text(self) -> Vec<u8> {
        self.text.0.into_inner().bytes
    }
}

fn is_percpu(map_type: MapType) -> bool {
    matches!(
        map_type,
        MapType::PercpuHash | MapType::LruPercpuHash | MapType::PercpuArray
    )
}

/// Whether a program over the elements of maps fits a map.
///
/// # Errors
/// EINVAL: another program, or a map whose elements are not walked. EACCES: it reaches beyond the map's keys or values. ENOTSUPP: it reaches into values
/// that have fields of the kernel's.
pub fn check_map(prog: &dyn ProgObject, map: &Map) -> Result<(), Errno> {
    let IteratorTarget { name, access, .. } = prog.iterates().ok_or(Errno::EINVAL)?;
    let is_walked = is_percpu(map.map_type())
        || matches!(
            map.map_type(),
            MapType::Hash | MapType::LruHash | MapType::Array
        );
    if name != "bpf_map_elem" || !is_walked {
        return Err(Errno::EINVAL);
    }
    let value_bytes = match is_percpu(map.map_type()) {
        true => map.sys_value_bytes(),
        false => map.value_size() as usize,
    };
    if access.rdonly > map.key_size() || access.rdwr as usize > value_bytes {
        return Err(Errno::EACCES);
    }
    // Programs write values as plain bytes here.
    if map.value_record().is_some() && access.rdwr > 0 {
        return Err(Errno::ENOTSUPP);
    }
    Ok(())
}

/// # Errors
/// EINVAL: no iterator runs. As `body`.
fn with_text(body: impl FnOnce(&Text) -> Result<(), Errno>) -> Result<(), Errno> {
    with_run_extension(|text: Option<&Text>| text.map_or(Err(Errno::EINVAL), body))
}

/// Appends to the text of the iterator that runs.
///
/// # Errors
/// EINVAL: none runs. EOVERFLOW: the object has too much text.
pub(crate) fn append_to_text(bytes: &[u8]) -> Result<(), Errno> {
    with_text(|out| out.append(bytes))
}

implement! { ROWS:
    SeqPrintf(_seq: u64, fmt: *const u8, fmt_size: u32, data: *const u8, data_len: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size, twice.
        let (fmt, data) = unsafe { (bytes(fmt, fmt_size), bytes(data, data_len)) };
        ArgWords::new(data, data_len)
            .and_then(|args| format(fmt, args.words(), OBJECT_BYTES_MAX + 1))
            .and_then(|text| append_to_text(&text.kept))
    }
    SeqWrite(_seq: u64, data: *const u8, len: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        let data = unsafe { bytes(data, len) };
        append_to_text(data)
    }
}

#[cfg(test)]
mod tests {
    use ring3_uapi::FuncId;

    use super::*;

    /// What a helper answers in a run that writes `text`.
    fn call(text: Option<&Text>, id: FuncId, args: [u64; 4]) -> i64 {
        let code = crate::find(id).unwrap();
        let context = RunContext {
            extension: text.map(|text| text as &dyn std::any::Any),
            ..RunContext::default()
        };
        let [a, b, c, d] = args;
        // SAFETY: the callers give memory of the sizes that they state.
        with_run_context(&context, || unsafe { code(0, a, b, c, d) as i64 })
    }

    fn seq_printf(text: Option<&Text>, fmt: &[u8], words: &[u64], data_len: u64) -> i64 {
        let [fmt_at, data] = [fmt.as_ptr().addr(), words.as_ptr().addr()];
        let args = [fmt_at as u64, fmt.len() as u64, data as u64, data_len];
        call(text, FuncId::SeqPrintf, args)
    }

    fn seq_write(text: Option<&Text>, data: &[u8]) -> i64 {
        let at = data.as_ptr().addr() as u64;
        call(text, FuncId::SeqWrite, [at, data.len() as u64, 0, 0])
    }

    #[test]
    fn iterators_write_until_an_object_has_too_much() {
        let text = Text::default();
        assert_eq!(seq_printf(Some(&text), b"%d of %x\n\0", &[7, 255], 16), 0);
        assert_eq!(seq_write(Some(&text), b"\0\x01"), 0);
        assert_eq!(text.0.lock().bytes, b"7 of ff\n\0\x01");
        let room = OBJECT_BYTES_MAX - text.0.lock().bytes.len();
        let overflow = Errno::EOVERFLOW.negated();
        assert_eq!(seq_write(Some(&text), &vec![b'a'; room + 1]), overflow);
        assert_eq!(seq_printf(Some(&text), b"b\0", &[], 0), overflow);
        assert_eq!(text.0.lock().bytes.len() + room, OBJECT_BYTES_MAX);
    }

    #[test]
    fn values_are_shown_and_too_much_is_seen_at_the_end() {
        use ring3_btf::{Builder, IntEncoding};
        use ring3_runtime::{GivenHelperFn, HelperFn};
        let mut builder = Builder::new();
        let int = builder.add_int("int", 4, IntEncoding::SIGNED);
        let many = builder.add_array(int, int, 20_000);
        let btf = Btf::parse(&builder.finish()).unwrap();
        let values = vec![7i32; 20_000];
        let mut rows = crate::rows();
        let row = rows.find(|row| row.id == FuncId::SeqPrintfBtf).unwrap();
        assert_eq!(row.given, crate::Given::KernelTypes);
        let [missing, invalid, range] =
            [Errno::ENOENT, Errno::EINVAL, Errno::ERANGE].map(Errno::negated);
        let text = Text::default();
        let context = RunContext {
            extension: Some(&text),
            ..RunContext::default()
        };
        let show = |address: u64, ty: u32, flags| {
            let words = [address, u64::from(ty)];
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let at = bytes.as_ptr().expose_provenance() as u64;
            let types = std::ptr::from_ref(&btf).expose_provenance() as u64;
            // SAFETY: 1. the row is of such a function; 2. the bytes and the types live.
            with_run_context(&context, || unsafe {
                let code = std::mem::transmute::<HelperFn, GivenHelperFn>(row.code);
                code(0, at, bytes.len() as u64, flags, 0, types) as i64
            })
        };
        let address = values.as_ptr().expose_provenance() as u64;
        assert_eq!(show(address, int.0, 0), 0);
        assert_eq!(text.0.lock().bytes, b"(int)7\n");
        assert_eq!(show(address, 99, 0), missing);
        assert_eq!(show(address, int.0, 16), invalid);
        assert_eq!(show(8, int.0, 0), range);
        assert!(!text.0.lock().is_too_long);
        assert_eq!(show(address, many.0, 1), 0);
        assert!(text.0.lock().is_too_long);
    }

    #[test]
    fn a_format_that_does_not_fit_its_data_writes_nothing() {
        let text = Text::default();
        let invalid = Errno::EINVAL.negated();
        for (fmt, words, data_len) in [
            (&b"%d\0"[..], &[][..], 0),
            (b"%d\0", &[1], 7),
            (b"%d", &[1], 8),
            (b"%y\0", &[1], 8),
        ] {
            assert_eq!(seq_printf(Some(&text), fmt, words, data_len), invalid);
        }
        assert_eq!(text.0.lock().bytes, b"");
        assert_eq!(seq_printf(None, b"a\0", &[], 0), invalid);
        assert_eq!(seq_write(None, b"a"), invalid);
    }
}
