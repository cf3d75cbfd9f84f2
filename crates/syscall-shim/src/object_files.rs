//! Descriptors that processes can hold: every open object is a memfd, told apart by its inode. Key type: [`ObjectFiles`].
//!
//! What a client gets is an open file description of its own, under a shared flock(2). It survives dup, fork, exec and the passing of
//! descriptors, and a mapping keeps it; when the last copy goes, inotify says so and an exclusive lock can be had: then the object is let go. The
//! memfd of a map that can be mapped is the map's memory, so all of its descriptors share an inode; every other file has one of its own.

use std::{
    any::Any,
    collections::HashMap,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use parking_lot::RwLock;
use ring3_maps::Access;
use ring3_uapi::Errno;
use rustix::fs::{self, FlockOperation, MemfdFlags, Mode, OFlags, inotify};
use rustix::io;

use crate::OpenFile;

/// What tells a file from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
}

impl FileId {
    /// The id of an open file.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn of(fd: impl AsFd) -> Result<FileId, Errno> {
        Ok(FileId::from_stat(&fs::fstat(fd).map_err(errno)?))
    }

    /// The id in a result of stat(2).
    pub fn from_stat(stat: &fs::Stat) -> FileId {
        FileId {
            dev: stat.st_dev,
            ino: stat.st_ino,
        }
    }
}

/// What is kept as long as the file is open.
pub type Keep = Box<dyn Any + Send + Sync>;

struct Entry {
    file: OpenFile,
    /// A description of our own, without a lock until no client has one.
    probe: OwnedFd,
    watch: i32,
    _keep: Option<Keep>,
}

#[derive(Default)]
struct Table {
    files: HashMap<FileId, Entry>,
    watches: HashMap<i32, FileId>,
}

/// Every object that some process has open.
pub struct ObjectFiles {
    table: RwLock<Table>,
    inotify: OwnedFd,
}

pub(crate) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

/// What readlink(2) of `/proc/self/fd/N` shows of the kernel's files, which is how tools tell kinds.
fn name_of(file: &OpenFile) -> &'static str {
    match file {
        OpenFile::Map(_) => "bpf-map",
        OpenFile::Prog(_) => "bpf-prog",
        OpenFile::Btf(_) => "btf",
        OpenFile::Link(_) => "bpf_link",
        OpenFile::Iter(_) => "bpf_iter",
        OpenFile::Stats(_) => "bpf-stats",
        OpenFile::PerfEvent { .. } => "[perf_event]",
        OpenFile::Other => "other",
    }
}

fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(errno)
}

impl ObjectFiles {
    /// Nothing open.
    ///
    /// # Errors
    /// EMFILE: the host has no inotify instance left for this user.
    pub fn new() -> Result<ObjectFiles, Errno> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        Ok(ObjectFiles {
            table: RwLock::default(),
            inotify: inotify::init(flags).map_err(errno)?,
        })
    }

    /// A new description of an object, to be handed to a client. `keep` is dropped with the last one of its inode.
    ///
    /// # Errors
    /// EMFILE, ENOMEM, ENOSPC: the host has no descriptor or watch left.
    pub fn open(&self, file: OpenFile, keep: Option<Keep>) -> Result<OwnedFd, Errno> {
        if let OpenFile::Map(map) = &file
            && map.access() == Access::ReadWrite
            && let Some(source) = map.object().map().client_memory()
        {
            return self.open_memory(file.clone(), source.memfd.as_fd(), keep);
        }
        let memfd = fs::memfd_create(name_of(&file), MemfdFlags::CLOEXEC).map_err(errno)?;
        if let OpenFile::Iter(text) = &file {
            let mut rest = &text[..];
            while !rest.is_empty() {
                let written = io::write(&memfd, rest).map_err(errno)?;
                rest = rest.get(written..).unwrap_or_default();
            }
        }
        self.open_memory(file, memfd.as_fd(), keep)
    }

    /// The same over memory that clients shall map.
    ///
    /// # Errors
    /// As [`ObjectFiles::open`].
    pub fn open_memory(
        &self,
        file: OpenFile,
        memory: BorrowedFd<'_>,
        keep: Option<Keep>,
    ) -> Result<OwnedFd, Errno> {
        let access = match &file {
            OpenFile::Iter(_) => OFlags::RDONLY,
            OpenFile::Map(map) if map.access() == Access::ReadOnly => OFlags::RDONLY,
            OpenFile::Map(map) if map.access() == Access::WriteOnly => OFlags::WRONLY,
            _ => OFlags::RDWR,
        };
        let handed = reopen(memory, access)?;
        let id = FileId::of(&handed)?;
        let mut table = self.table.write();
        fs::flock(&handed, FlockOperation::LockShared).map_err(errno)?;
        if !table.files.contains_key(&id) {
            let probe = reopen(memory, OFlags::RDWR)?;
            let path = format!("/proc/self/fd/{}", probe.as_raw_fd());
            let events = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::CLOSE_NOWRITE;
            let watch = inotify::add_watch(&self.inotify, path, events).map_err(errno)?;
            table.watches.insert(watch, id);
            let entry = Entry {
                file,
                probe,
                watch,
                _keep: keep,
            };
            table.files.insert(id, entry);
        }
        Ok(handed)
    }

    /// The object behind a file.
    pub fn find(&self, id: FileId) -> Option<OpenFile> {
        self.table
            .read()
            .files
            .get(&id)
            .map(|entry| entry.file.clone())
    }

    /// How many inodes are open.
    pub fn len(&self) -> usize {
        self.table.read().files.len()
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Becomes readable when something was closed: time for [`ObjectFiles::release_closed`].
    pub fn closes(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Lets go of what no process has open any more.
    pub fn release_closed(&self) {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut space);
        let mut gone = Vec::new();
        while let Ok(event) = events.next() {
            let mut table = self.table.write();
            if let Some(&id) = table.watches.get(&event.wd()) {
                gone.extend(take_if_closed(&mut table, &self.inotify, id));
            }
        }
        // Objects go outside of the lock.
        drop(gone);
    }

    /// Looks at every file, as the events of many closings may have been lost.
    pub fn sweep(&self) {
        let mut table = self.table.write();
        let ids: Vec<FileId> = table.files.keys().copied().collect();
        let gone: Vec<Entry> = ids
            .into_iter()
            .filter_map(|id| take_if_closed(&mut table, &self.inotify, id))
            .collect();
        drop(table);
        drop(gone);
    }
}

fn take_if_closed(table: &mut Table, inotify: &OwnedFd, id: FileId) -> Option<Entry> {
    let entry = table.files.get(&id)?;
    fs::flock(&entry.probe, FlockOperation::NonBlockingLockExclusive).ok()?;
    let entry = table.files.remove(&id)?;
    table.watches.remove(&entry.watch);
    // Fails only if the watch is gone already.
    let _ = inotify::remove_watch(inotify, entry.watch);
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use ring3_maps::{MapAttr, MapType};
    use ring3_objects::{MapObject, System};
    use ring3_uapi::flags::map_create;

    use crate::MapFile;

    fn map(system: &Arc<System>, flags: u32) -> OpenFile {
        let attr = MapAttr::new(MapType::Array, 4, 8, 16).with_flags(flags);
        let object = MapObject::create(system, &attr, None, None).unwrap();
        OpenFile::Map(MapFile::new(object, Access::ReadWrite))
    }

    #[test]
    fn the_last_close_lets_go_of_the_object() {
        let system = System::new();
        let files = ObjectFiles::new().unwrap();
        let fd = files.open(map(&system, 0), None).unwrap();
        let copy = fd.try_clone().unwrap();
        let id = FileId::of(&fd).unwrap();
        drop(fd);
        files.release_closed();
        assert!(matches!(files.find(id), Some(OpenFile::Map(_))));
        drop(copy);
        files.release_closed();
        assert!(files.find(id).is_none());
        assert_eq!(system.next_map_id(0), None);
    }

    #[test]
    fn descriptors_of_memory_share_an_inode_and_a_mapping_keeps_it() {
        let system = System::new();
        let files = ObjectFiles::new().unwrap();
        let map = map(&system, map_create::MMAPABLE);
        let one = files.open(map.clone(), None).unwrap();
        let two = files.open(map, None).unwrap();
        assert_eq!(FileId::of(&one), FileId::of(&two));
        let mapping =
            ring3_os::map::Region::shared(one.as_fd(), 0, 4096, ring3_os::map::Prot::Read);
        drop((one, two));
        files.release_closed();
        assert_eq!(files.len(), 1);
        drop(mapping.unwrap());
        files.sweep();
        assert_eq!((files.len(), system.next_map_id(0)), (0, None));
    }
}
