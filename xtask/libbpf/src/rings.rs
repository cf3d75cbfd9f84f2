//! `libbpf-oracle rings OBJECT`: libbpf's consumer and producer of ring buffers, on whatever answers bpf(2).
//!
//! Loads `fixtures/elf/maps/rings.o`, runs its programs, takes their records with `ring_buffer__poll` and gives them commands with
//! `user_ring_buffer__reserve`. What is printed depends on the programs and the rings alone.

use std::{
    ffi::{CStr, CString, c_int, c_void},
    ptr::NonNull,
};

use libbpf_sys::{ring_buffer, user_ring_buffer};

use crate::Object;

/// Runs of a program.
const ROUNDS: u64 = 300;
/// How long a record may take to come.
const PATIENCE_MS: c_int = 5000;

/// Records taken.
#[derive(Default)]
struct Taken {
    records: u64,
    bytes: u64,
    hash: u64,
    last: u64,
}

/// `ring_buffer_sample_fn`: `ctx` is a [`Taken`].
unsafe extern "C" fn take(ctx: *mut c_void, data: *mut c_void, size: libbpf_sys::size_t) -> c_int {
    // SAFETY: 1. `ctx` is what `ring_buffer__new` was given, and in use by this call alone; 2. libbpf gives a record of `size` bytes.
    let (taken, record) =
        unsafe { (&mut *ctx.cast::<Taken>(), std::slice::from_raw_parts(data.cast::<u8>(), size as usize)) };
    taken.records += 1;
    taken.bytes += record.len() as u64;
    taken.last = record.first_chunk().copied().map_or(0, u64::from_le_bytes);
    for byte in record {
        taken.hash = (taken.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    0
}

/// The descriptor of a map, or of a program.
fn fd_of(object: &Object, name: &CStr, of: unsafe fn(*const libbpf_sys::bpf_object, *const i8) -> c_int) -> Result<c_int, String> {
    // SAFETY: 1. the object is loaded; 2. the name is NUL-terminated.
    let fd = unsafe { of(object.0.as_ptr(), name.as_ptr()) };
    if fd < 0 { Err(format!("{}: {fd}", name.to_string_lossy())) } else { Ok(fd) }
}

unsafe fn map_fd(object: *const libbpf_sys::bpf_object, name: *const i8) -> c_int {
    // SAFETY: 1. the caller's promise: a loaded object and a name.
    unsafe { libbpf_sys::bpf_object__find_map_fd_by_name(object, name) }
}

unsafe fn prog_fd(object: *const libbpf_sys::bpf_object, name: *const i8) -> c_int {
    // SAFETY: 1. the caller's promise: a loaded object and a name; 2. a program of it, or null, which is not asked.
    unsafe {
        let program = libbpf_sys::bpf_object__find_program_by_name(object, name);
        if program.is_null() { -2 } else { libbpf_sys::bpf_program__fd(program) }
    }
}

/// What a program returns over a small packet.
fn run(program: c_int) -> Result<u32, String> {
    let packet = [0u8; 64];
    let mut opts = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: packet.as_ptr().cast(),
        data_size_in: packet.len() as u32,
        ..Default::default()
    };
    // SAFETY: 1. the packet and the options live through the call.
    let error = unsafe { libbpf_sys::bpf_prog_test_run_opts(program, &mut opts) };
    if error == 0 { Ok(opts.retval) } else { Err(format!("test run: {error}")) }
}

/// A consumer; freed when dropped.
struct Consumer(NonNull<ring_buffer>);

impl Consumer {
    /// Takes until `wanted` records are there.
    fn until(&self, taken: *mut Taken, wanted: u64) -> Result<(), String> {
        // SAFETY: 1. the consumer is open; 2. `taken` is its context, which nobody else uses meanwhile.
        unsafe {
            while (*taken).records < wanted {
                let got = libbpf_sys::ring_buffer__poll(self.0.as_ptr(), PATIENCE_MS);
                if got <= 0 {
                    return Err(format!("poll: {got} after {} records of {wanted}", (*taken).records));
                }
            }
        }
        Ok(())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // SAFETY: 1. the consumer is open, and nothing refers to it afterwards.
        unsafe { libbpf_sys::ring_buffer__free(self.0.as_ptr()) };
    }
}

/// A producer; freed when dropped.
struct Producer(NonNull<user_ring_buffer>);

impl Producer {
    /// A command of `words` words that begins with `number`; submitted, or thrown away.
    fn give(&self, number: u64, words: u32, submit: bool) -> Result<(), String> {
        // SAFETY: 1. the producer is open; 2. a reserved record has the bytes asked for, 8-aligned, and is given back once.
        unsafe {
            let record = libbpf_sys::user_ring_buffer__reserve(self.0.as_ptr(), words * 8);
            if record.is_null() {
                return Err(format!("no room for command {number}"));
            }
            std::slice::from_raw_parts_mut(record.cast::<u64>(), words as usize).fill(number);
            if submit {
                libbpf_sys::user_ring_buffer__submit(self.0.as_ptr(), record);
            } else {
                libbpf_sys::user_ring_buffer__discard(self.0.as_ptr(), record);
            }
        }
        Ok(())
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // SAFETY: 1. the producer is open, and nothing refers to it afterwards.
        unsafe { libbpf_sys::user_ring_buffer__free(self.0.as_ptr()) };
    }
}

pub(crate) fn rings(path: &str) -> Result<(), String> {
    let path = CString::new(path).map_err(|error| error.to_string())?;
    // SAFETY: 1. the path lives through the call; no options.
    let object = NonNull::new(unsafe { libbpf_sys::bpf_object__open_file(path.as_ptr(), std::ptr::null()) });
    let object = Object(object.ok_or("libbpf does not open the object")?);
    // SAFETY: 1. the object is open and not loaded yet.
    let error = unsafe { libbpf_sys::bpf_object__load(object.0.as_ptr()) };
    if error != 0 {
        return Err(format!("load: {error}"));
    }
    let (produce, drain) = (fd_of(&object, c"produce", prog_fd)?, fd_of(&object, c"drain", prog_fd)?);
    let taken: *mut Taken = Box::into_raw(Box::default());
    let records = fd_of(&object, c"records", map_fd)?;
    // SAFETY: 1. a ring buffer's descriptor; 2. the context lives until the end of the process.
    let consumer = unsafe { libbpf_sys::ring_buffer__new(records, Some(take), taken.cast(), std::ptr::null()) };
    let consumer = Consumer(NonNull::new(consumer).ok_or("libbpf does not open the ring buffer")?);
    let commands = fd_of(&object, c"commands", map_fd)?;
    // SAFETY: 1. a user ring buffer's descriptor; no options.
    let producer = unsafe { libbpf_sys::user_ring_buffer__new(commands, std::ptr::null()) };
    let producer = Producer(NonNull::new(producer).ok_or("libbpf does not open the user ring buffer")?);

    let show = |what: &str, round: u64| {
        // SAFETY: 1. between calls of the consumer nobody writes it.
        let taken = unsafe { &*taken };
        println!(
            "{what} {round}: {} records, {} bytes, hash {:016x}, last {}",
            taken.records, taken.bytes, taken.hash, taken.last
        );
    };
    let mut wanted = 0;
    for round in 1..=ROUNDS {
        match run(produce)? {
            7 => wanted += 6,
            other => return Err(format!("produce returned {other} in round {round}")),
        }
        consumer.until(taken, wanted)?;
        if round % 50 == 0 {
            show("produced", round);
        }
    }
    let mut number = 0;
    for round in 1..=ROUNDS {
        let given = round % 8;
        for at in 0..given {
            number += 1;
            producer.give(number, 1 + (number % 15) as u32, at % 4 != 3)?;
        }
        let drained = run(drain)?;
        wanted += 1;
        consumer.until(taken, wanted)?;
        if round % 50 == 0 || round <= 8 {
            println!("drained {round}: {drained} of {given}");
            show("told", round);
        }
    }
    Ok(())
}
