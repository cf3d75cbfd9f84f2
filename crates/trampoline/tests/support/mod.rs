//! What the integration tests share: programs that are Rust functions, and C code compiled and loaded while a test runs.

#![allow(dead_code, reason = "every test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ring3_runtime::{Entry, EntryCode, ProgObject, ProgRef};
use ring3_uapi::ProgType;

/// A program that is a Rust function.
pub(crate) struct Prog {
    id: u32,
    entry: Entry,
}

impl ProgObject for Prog {
    fn id(&self) -> u32 {
        self.id
    }
    fn entry(&self) -> Entry {
        self.entry
    }
    fn tail_target(&self) -> usize {
        0
    }
    fn prog_type(&self) -> ProgType {
        ProgType::Tracing
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// A program with an id of its own.
pub(crate) fn program(code: EntryCode, data: usize) -> ProgRef {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let data = data as *const ();
    Arc::new(Prog {
        id,
        entry: Entry { code, data },
    })
}

/// Compiles C source to a shared object and loads it for the rest of the test's life.
pub(crate) fn load_c(name: &str, source: &str, flags: &[&str]) -> Library {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let stem = format!("{name}-{}", std::process::id());
    let (file, object) = (
        folder.join(format!("{stem}.c")),
        folder.join(format!("{stem}.so")),
    );
    std::fs::write(&file, source).expect("writes the source");
    let output = Command::new("gcc")
        .args(["-shared", "-fPIC", "-w"])
        .args(flags.iter().filter(|flag| !flag.starts_with("-l")))
        .arg("-o")
        .args([&object, &file])
        .args(flags.iter().filter(|flag| flag.starts_with("-l")))
        .output()
        .expect("the tests of C targets need gcc");
    assert!(
        output.status.success(),
        "gcc: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let library = Library::open(&object);
    // Loaded: the linker needs the file no more, but discovery reads its symbols.
    let _ = std::fs::remove_file(&file);
    library
}

/// A shared object.
pub(crate) struct Library {
    handle: *mut libc::c_void,
    pub(crate) path: PathBuf,
}

impl Library {
    fn open(path: &Path) -> Library {
        let name = std::ffi::CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
        // SAFETY: the object is what a test just compiled.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null(), "dlopen of {}", path.display());
        Library {
            handle,
            path: path.to_owned(),
        }
    }

    /// Address of a symbol.
    pub(crate) fn symbol(&self, name: &str) -> *mut libc::c_void {
        let name = std::ffi::CString::new(name).expect("no NUL");
        // SAFETY: the handle is open.
        let address = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        assert!(!address.is_null(), "symbol {name:?}");
        address
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // Its text stays mapped, as sites demand.
        let _ = std::fs::remove_file(&self.path);
    }
}
