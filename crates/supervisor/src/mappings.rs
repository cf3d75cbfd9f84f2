//! Which maps' memory processes have mapped for writing: [`Mappings`]. Nobody says when a mapping ends, so who freezes a map has the host's `/proc` asked; only
//! for memory that was mapped at all.

use std::{
    collections::HashSet,
    fs,
    os::{fd::AsFd, unix::ffi::OsStrExt},
};

use parking_lot::Mutex;
use ring3_maps::Map;
use ring3_syscall_shim::FileId;

/// Memory that some client mapped since the daemon began.
#[derive(Default)]
pub(crate) struct Mappings(Mutex<HashSet<FileId>>);

fn memory_of(map: &Map) -> Option<FileId> {
    let source = map.mmap_source()?;
    FileId::of(source.memfd.as_fd()).ok()
}

impl Mappings {
    /// A client is about to map a map's memory.
    pub(crate) fn expect(&self, map: &Map) {
        if let Some(id) = memory_of(map) {
            self.0.lock().insert(id);
        }
    }

    /// Whether a process has a map's memory mapped for writing, shared.
    pub(crate) fn is_writable(&self, map: &Map) -> bool {
        let Some(id) = memory_of(map).filter(|id| self.0.lock().contains(id)) else {
            return false;
        };
        let Ok(processes) = fs::read_dir("/proc") else {
            return false;
        };
        let own = std::process::id().to_string();
        processes
            .flatten()
            .filter(|process| process.file_name() != *own)
            .filter(|process| process.file_name().as_bytes()[0].is_ascii_digit())
            // Other users' processes cannot be read, and have none of ours.
            .filter_map(|process| fs::read_to_string(process.path().join("maps")).ok())
            .any(|table| has_writable(&table, id))
    }
}

/// Whether a table of `/proc/PID/maps` has a file mapped writable and shared.
fn has_writable(table: &str, id: FileId) -> bool {
    table.lines().any(|line| {
        // ADDRESSES PERMISSIONS OFFSET MAJOR:MINOR INODE NAME
        let mut words = line.split_whitespace().skip(1);
        let permissions = words.next().unwrap_or_default().as_bytes();
        let device = words.nth(1).and_then(|device| {
            let (major, minor) = device.split_once(':')?;
            let number = |text| u32::from_str_radix(text, 16).ok();
            Some(rustix::fs::makedev(number(major)?, number(minor)?))
        });
        let inode = words.next().and_then(|inode| inode.parse().ok());
        permissions.get(1) == Some(&b'w')
            && permissions.get(3) == Some(&b's')
            && device == Some(id.dev)
            && inode == Some(id.ino)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_os::{
        map::{Prot, Region},
        memfd::{Memfd, Seals},
    };

    #[test]
    fn own_mappings_are_told_apart() {
        let memfd = Memfd::create("test", 4096, Seals::Size).unwrap();
        let id = FileId::of(memfd.as_fd()).unwrap();
        let own = || fs::read_to_string("/proc/self/maps").unwrap();
        let map = |prot| Region::shared(memfd.as_fd(), 0, 4096, prot).unwrap();
        assert!(!has_writable(&own(), id));
        let read = map(Prot::Read);
        assert!(!has_writable(&own(), id));
        let write = map(Prot::ReadWrite);
        assert!(has_writable(&own(), id));
        drop((read, write));
        assert!(!has_writable(&own(), id));
    }
}
