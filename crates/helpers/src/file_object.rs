//! Modelled files: what a host hands to programs where the kernel would hand a `struct file`. Key type: [`FileObject`].
//!
//! ```text
//! file: f_path { dentry -> dentry of the last name }, f_inode -> inode: i_ino
//! dentry: d_name { name, len }, d_parent -> dentry of the name before; the root's parent is itself
//! ```
//! All other fields are zero. `bpf_d_path` walks the dentries, so that a program may hand it a path from any of these objects.

use ring3_btf::layout;
use ring3_isa::MemSize;
use ring3_runtime::extable::{probe_copy, probe_load};
use ring3_spec::kinds::{Btf, OrNull, SocketStruct, Value};
use ring3_uapi::Errno;

use crate::bind::{IntoValue, bytes_mut, implement};

const FILE_BYTES: usize = 512;
const INODE_BYTES: usize = 1024;
const DENTRY_BYTES: usize = 256;
/// Names of one path. Source: half of `PATH_MAX`.
const NAMES_MAX: usize = 2048;
/// Bytes of one name. Source: `NAME_MAX`.
const NAME_BYTES_MAX: u32 = 255;

#[repr(C, align(64))]
struct Dentry([u8; DENTRY_BYTES]);

#[repr(C, align(64))]
struct FileMemory {
    file: [u8; FILE_BYTES],
    inode: [u8; INODE_BYTES],
}

/// A file as programs see it, as long as the value lives.
pub struct FileObject {
    memory: Box<FileMemory>,
    /// The root's first.
    #[expect(
        clippy::vec_box,
        reason = "programs have their addresses, and 64-byte alignment is each one's own"
    )]
    _dentries: Vec<Box<Dentry>>,
    _names: Vec<Box<[u8]>>,
}

impl std::fmt::Debug for FileObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileObject").finish_non_exhaustive()
    }
}

fn at(object: &str, path: &str) -> usize {
    layout::field(None, object, path).map_or(0, |field| field.offset as usize)
}

fn put(memory: &mut [u8], offset: usize, word: u64) {
    memory[offset..offset + 8].copy_from_slice(&word.to_ne_bytes());
}

fn address_of<T>(object: &T) -> u64 {
    std::ptr::from_ref(object).expose_provenance() as u64
}

impl FileObject {
    /// A file with an absolute path and an inode number; names beyond 2048 and bytes of a name beyond 255 are left out.
    pub fn new(path: &str, inode_number: u64) -> FileObject {
        let names = path.split('/').filter(|name| !name.is_empty());
        let cut = |name: &str| {
            let kept = name.len().min(NAME_BYTES_MAX as usize);
            Box::from(&name.as_bytes()[..kept])
        };
        let names: Vec<Box<[u8]>> = std::iter::once(Box::from(&b"/"[..]))
            .chain(names.take(NAMES_MAX - 1).map(cut))
            .collect();
        let mut dentries: Vec<Box<Dentry>> = Vec::new();
        for name in &names {
            let mut dentry = Box::new(Dentry([0; DENTRY_BYTES]));
            let parent = dentries
                .last()
                .map_or(address_of(&*dentry), |last| address_of(&**last));
            let in_name = at("dentry", "d_name");
            put(&mut dentry.0, at("dentry", "d_parent"), parent);
            put(
                &mut dentry.0,
                in_name + at("qstr", "name"),
                name.as_ptr().expose_provenance() as u64,
            );
            let len = in_name + at("qstr", "len");
            dentry.0[len..len + 4].copy_from_slice(&(name.len() as u32).to_ne_bytes());
            dentries.push(dentry);
        }
        let mut memory = Box::new(FileMemory {
            file: [0; FILE_BYTES],
            inode: [0; INODE_BYTES],
        });
        put(&mut memory.inode, at("inode", "i_ino"), inode_number);
        let inode = address_of(&memory.inode);
        put(&mut memory.file, at("file", "f_inode"), inode);
        let last = dentries.last().map_or(0, |last| address_of(&**last));
        put(
            &mut memory.file,
            at("file", "f_path") + at("path", "dentry"),
            last,
        );
        FileObject {
            memory,
            _dentries: dentries,
            _names: names,
        }
    }

    /// Address of the `struct file`.
    pub fn file_ptr(&self) -> u64 {
        address_of(&self.memory.file)
    }

    /// Address of its `struct path`.
    pub fn path_ptr(&self) -> u64 {
        self.file_ptr() + at("file", "f_path") as u64
    }

    /// Address of its `struct inode`.
    pub fn inode_ptr(&self) -> u64 {
        address_of(&self.memory.inode)
    }
}

/// The number that an inode object holds; `None` for null.
///
/// # Safety
/// 0 or the address of an object that lives.
pub(crate) unsafe fn inode_number(inode: u64) -> Option<u64> {
    (inode != 0).then(|| probe_load(inode + at("inode", "i_ino") as u64, MemSize::Dw))
}

/// The text of a path, the NUL at its end included.
fn path_text(path: u64) -> Vec<u8> {
    let (in_parent, in_name) = (
        at("dentry", "d_parent") as u64,
        at("dentry", "d_name") as u64,
    );
    let (in_text, in_len) = (at("qstr", "name") as u64, at("qstr", "len") as u64);
    let mut dentry = probe_load(path + at("path", "dentry") as u64, MemSize::Dw);
    let mut names: Vec<Vec<u8>> = Vec::new();
    while names.len() < NAMES_MAX {
        let parent = probe_load(dentry + in_parent, MemSize::Dw);
        if parent == dentry || parent == 0 {
            break;
        }
        let len = probe_load(dentry + in_name + in_len, MemSize::W) as u32;
        let mut name = vec![0; len.min(NAME_BYTES_MAX) as usize];
        let text = probe_load(dentry + in_name + in_text, MemSize::Dw);
        // SAFETY: 1. the vector has that many bytes.
        unsafe { probe_copy(name.as_mut_ptr(), text, name.len()) };
        names.push(name);
        dentry = parent;
    }
    let mut text = Vec::new();
    for name in names.iter().rev() {
        text.push(b'/');
        text.extend(name);
    }
    if text.is_empty() {
        text.push(b'/');
    }
    text.push(0);
    text
}

/// What a file that is no socket has for one.
struct NoSocket;

impl IntoValue<OrNull<Btf<SocketStruct>>> for NoSocket {
    fn into_value(self) -> Value<OrNull<Btf<SocketStruct>>> {
        Value::new(0)
    }
}

implement! { ROWS:
    DPath(path: u64, buf: *mut u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        let out = unsafe { bytes_mut(buf, size) };
        if out.is_empty() {
            Ok(0)
        } else {
            let text = path_text(path);
            match out.get_mut(..text.len()) {
                Some(place) => {
                    place.copy_from_slice(&text);
                    Ok(text.len() as u64)
                }
                None => Err(Errno::ENAMETOOLONG),
            }
        }
    }
    /// No modelled file is a socket.
    SockFromFile(_file: u64) { NoSocket }
    /// Nobody measures files here.
    ImaInodeHash(_inode: u64, _hash: *mut u8, _size: u32) { Err::<(), _>(Errno::EOPNOTSUPP) }
    ImaFileHash(_file: u64, _hash: *mut u8, _size: u32) { Err::<(), _>(Errno::EOPNOTSUPP) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_uapi::FuncId;

    fn d_path(path: u64, size: usize) -> (i64, Vec<u8>) {
        let code = crate::find(FuncId::DPath).unwrap();
        let mut out = vec![0u8; size];
        let address = out.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: the object and the buffer live.
        let ret = unsafe { code(path, address, size as u64, 0, 0) as i64 };
        (ret, out)
    }

    #[test]
    fn a_file_is_no_socket_and_has_no_measurement() {
        let file = FileObject::new("/x", 9);
        let mut hash = [7u8; 32];
        let address = hash.as_mut_ptr().expose_provenance() as u64;
        let call = |id, object: u64| {
            let code = crate::find(id).unwrap();
            // SAFETY: the object and the buffer live.
            unsafe { code(object, address, 32, 0, 0) as i64 }
        };
        let unsupported = Errno::EOPNOTSUPP.negated();
        assert_eq!(call(FuncId::SockFromFile, file.file_ptr()), 0);
        assert_eq!(call(FuncId::ImaFileHash, file.file_ptr()), unsupported);
        assert_eq!(call(FuncId::ImaInodeHash, file.inode_ptr()), unsupported);
        assert_eq!(hash, [7; 32]);
    }

    #[test]
    fn paths_are_walked_to_the_root_and_must_fit() {
        let file = FileObject::new("/usr//lib/x", 9);
        assert_eq!(d_path(file.path_ptr(), 11), (11, b"/usr/lib/x\0".to_vec()));
        assert_eq!(
            d_path(file.path_ptr(), 10),
            (Errno::ENAMETOOLONG.negated(), vec![0; 10])
        );
        assert_eq!(d_path(file.path_ptr(), 0), (0, vec![]));
        let root = FileObject::new("/", 2);
        assert_eq!(d_path(root.path_ptr(), 2), (2, b"/\0".to_vec()));
        // SAFETY: the objects live.
        unsafe {
            assert_eq!(inode_number(file.inode_ptr()), Some(9));
            assert_eq!(inode_number(0), None);
        }
    }
}
