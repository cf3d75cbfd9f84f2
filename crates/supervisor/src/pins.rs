//! Pins as files: [`Pins`]. A pin is an empty file in the daemon's folder, told by its inode.
//!
//! Any tool may list, rename, link and remove them; an object is held until the last name of its file goes. The file is kept open, so that its inode
//! means this pin and no other for as long. Files that a daemon before this one left are removed: their objects died with it, as with a kernel.

use std::{
    collections::HashMap,
    fs as std_fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use parking_lot::Mutex;
use ring3_bpffs::Pinned;
use ring3_maps::Access;
use ring3_syscall_shim::{FileId, MapFile, OpenFile};
use ring3_uapi::{Errno, LinkType};
use rustix::fs::{self, AtFlags, Mode, OFlags, inotify};

struct Pin {
    object: OpenFile,
    file: OwnedFd,
    watch: i32,
}

#[derive(Default)]
struct Table {
    pins: HashMap<FileId, Pin>,
    watches: HashMap<i32, FileId>,
}

/// The pins of one daemon.
pub(crate) struct Pins {
    table: Mutex<Table>,
    inotify: OwnedFd,
}

pub(crate) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

impl Pins {
    /// An empty folder of pins.
    ///
    /// # Errors
    /// The folder cannot be made or emptied.
    pub(crate) fn new(folder: &Path) -> io::Result<Pins> {
        if folder.exists() {
            std_fs::remove_dir_all(folder)?;
        }
        std_fs::create_dir(folder)?;
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        Ok(Pins {
            table: Mutex::default(),
            inotify: inotify::init(flags)?,
        })
    }

    /// Makes a file for an object in a directory.
    ///
    /// # Errors
    /// As open(2) with `O_EXCL`.
    pub(crate) fn pin(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        object: Pinned,
    ) -> Result<(), Errno> {
        // A pin of a map is one of its users.
        let object = match object {
            Pinned::Map(map) => OpenFile::Map(MapFile::new(map, Access::ReadWrite)),
            Pinned::Prog(prog) => OpenFile::Prog(prog),
            Pinned::Link(link) => OpenFile::Link(link),
        };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut table = self.table.lock();
        let file = fs::openat(parent, name, flags, mode).map_err(errno)?;
        let id = FileId::of(&file)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let watch = inotify::add_watch(&self.inotify, path, inotify::WatchFlags::ATTRIB).map_err(
            |error| {
                let _ = fs::unlinkat(parent, name, AtFlags::empty());
                errno(error)
            },
        )?;
        table.watches.insert(watch, id);
        let pin = Pin {
            object,
            file,
            watch,
        };
        table.pins.insert(id, pin);
        let gone = self.take_if_unnamed(&mut table, id);
        drop(table);
        drop(gone);
        Ok(())
    }

    /// The object of a pin's file.
    pub(crate) fn get(&self, id: FileId) -> Option<Pinned> {
        match &self.table.lock().pins.get(&id)?.object {
            OpenFile::Map(map) => Some(Pinned::Map(map.object().clone())),
            OpenFile::Prog(prog) => Some(Pinned::Prog(prog.clone())),
            OpenFile::Link(link) => Some(Pinned::Link(link.clone())),
            OpenFile::Btf(_)
            | OpenFile::Iter(_)
            | OpenFile::Stats(_)
            | OpenFile::PerfEvent { .. }
            | OpenFile::Other => None,
        }
    }

    /// Whether any of them is a link of an iterator.
    pub(crate) fn has_iterators(&self) -> bool {
        self.table.lock().pins.values().any(
            |pin| matches!(&pin.object, OpenFile::Link(link) if link.link_type() == LinkType::Iter),
        )
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.table.lock().pins.len()
    }

    /// Becomes readable when a name went: time for [`Pins::release_unnamed`].
    pub(crate) fn removals(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Lets go of objects whose files have no name any more.
    pub(crate) fn release_unnamed(&self) {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut space);
        let mut gone = Vec::new();
        while let Ok(event) = events.next() {
            let mut table = self.table.lock();
            if let Some(&id) = table.watches.get(&event.wd()) {
                gone.extend(self.take_if_unnamed(&mut table, id));
            }
        }
        drop(gone);
    }

    fn take_if_unnamed(&self, table: &mut Table, id: FileId) -> Option<Pin> {
        let pin = table.pins.get(&id)?;
        let is_named = fs::fstat(&pin.file).is_ok_and(|stat| stat.st_nlink > 0);
        if is_named {
            return None;
        }
        let pin = table.pins.remove(&id)?;
        table.watches.remove(&pin.watch);
        // Fails only if the watch is gone already.
        let _ = inotify::remove_watch(&self.inotify, pin.watch);
        Some(pin)
    }
}
