//! C code that is compiled and loaded while a test runs.

use std::path::{Path, PathBuf};
use std::process::Command;

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
