//! `libbpf-oracle BTF NAME=OBJECT...`: the instructions of every program after libbpf fitted it to the types in `BTF`, as text.
//!
//! Programs are prepared (relocated, their maps created), one at a time, never loaded or attached. One line `object NAME`, then per program
//! `program NAME` and one line of 16 hex digits per instruction slot, or `error ERRNO`.
//!
//! `libbpf-oracle rings OBJECT`: libbpf's ring buffers ([`rings`]).

use std::{
    env,
    ffi::{CStr, CString},
    process::ExitCode,
    ptr::NonNull,
};

mod rings;

/// An open object; closed when dropped.
struct Object(NonNull<libbpf_sys::bpf_object>);

impl Object {
    fn open(path: &CStr, btf: &CStr) -> Option<Object> {
        let opts = libbpf_sys::bpf_object_open_opts {
            sz: size_of::<libbpf_sys::bpf_object_open_opts>() as libbpf_sys::size_t,
            btf_custom_path: btf.as_ptr(),
            ..Default::default()
        };
        // SAFETY: 1. both strings and the options live through the call; libbpf copies what it keeps.
        NonNull::new(unsafe { libbpf_sys::bpf_object__open_file(path.as_ptr(), &opts) }).map(Object)
    }

    /// Every program, in the object's order.
    fn programs(&self) -> Vec<NonNull<libbpf_sys::bpf_program>> {
        let mut programs = Vec::new();
        let mut last = std::ptr::null_mut();
        loop {
            // SAFETY: 1. the object is open; 2. `last` is null or one of its programs.
            last = unsafe { libbpf_sys::bpf_object__next_program(self.0.as_ptr(), last) };
            match NonNull::new(last) {
                Some(program) => programs.push(program),
                None => return programs,
            }
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: 1. the object is open, and nothing refers to it afterwards.
        unsafe { libbpf_sys::bpf_object__close(self.0.as_ptr()) };
    }
}

/// Prepares the program at `index` alone: its name, and its instructions or an errno.
fn prepare(path: &CStr, btf: &CStr, index: usize) -> Option<(String, Result<Vec<u64>, i32>)> {
    let object = Object::open(path, btf)?;
    let programs = object.programs();
    let chosen = programs.get(index)?;
    for program in &programs {
        // SAFETY: 1. a program of an open object.
        unsafe { libbpf_sys::bpf_program__set_autoload(program.as_ptr(), program == chosen) };
    }
    // SAFETY: 1. a program of an open object; 2. its name lives as long.
    let name = unsafe { CStr::from_ptr(libbpf_sys::bpf_program__name(chosen.as_ptr())) };
    let name = name.to_string_lossy().into_owned();
    // SAFETY: 1. the object is open and was not prepared before.
    let error = unsafe { libbpf_sys::bpf_object__prepare(object.0.as_ptr()) };
    if error != 0 {
        return Some((name, Err(error)));
    }
    // SAFETY: 1. a program of a prepared object; 2. the count is that of the array, which lives as long as the object.
    let insns = unsafe {
        let count = libbpf_sys::bpf_program__insn_cnt(chosen.as_ptr()) as usize;
        std::slice::from_raw_parts(libbpf_sys::bpf_program__insns(chosen.as_ptr()).cast::<u64>(), count)
    };
    Some((name, Ok(insns.iter().map(|slot| u64::from_be_bytes(slot.to_le_bytes())).collect())))
}

fn run() -> Result<(), String> {
    let mut args = env::args().skip(1);
    let usage = "libbpf-oracle BTF NAME=OBJECT... | rings OBJECT";
    let first = args.next().ok_or(usage)?;
    if first == "rings" {
        return rings::rings(&args.next().ok_or(usage)?);
    }
    let btf = CString::new(first).map_err(|error| error.to_string())?;
    // SAFETY: 1. no printer is a valid one.
    unsafe { libbpf_sys::libbpf_set_print(None) };
    // SAFETY: 1. the text is static.
    let version = unsafe { CStr::from_ptr(libbpf_sys::libbpf_version_string()) };
    println!("libbpf {}", version.to_string_lossy());
    for arg in args {
        let (name, path) = arg.split_once('=').ok_or(usage)?;
        println!("object {name}");
        let path = CString::new(path).map_err(|error| error.to_string())?;
        let mut index = 0;
        while let Some((program, result)) = prepare(&path, &btf, index) {
            println!("program {program}");
            match result {
                Ok(insns) => insns.iter().for_each(|slot| println!("{slot:016x}")),
                Err(errno) => println!("error {errno}"),
            }
            index += 1;
        }
        if index == 0 {
            return Err(format!("{name}: libbpf does not open it"));
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("libbpf-oracle: {message}");
            ExitCode::FAILURE
        }
    }
}
