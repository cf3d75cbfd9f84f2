//! Who calls: privileges, and what its descriptors name. Key types: [`Caller`], [`OpenFile`], [`Host`].

use std::sync::Arc;

use parking_lot::RwLock;
use ring3_bpffs::Pinned;
use ring3_btf::Btf;
use ring3_maps::{
    Access, Map, ProgSlot,
    fd::{FdTable, Object},
};
use ring3_objects::{BtfObject, Cancel, LinkObject, MapObject, Program};
use ring3_runtime::Task;
use ring3_spec::Privilege;
use ring3_sync::rcu;
use ring3_uapi::{Errno, MapType};

use crate::fd_slots::FdSlots;

/// Descriptors a caller may have open unless told otherwise. Source: the usual RLIMIT_NOFILE.
const FDS_MAX: usize = 1024;

/// A user of bpf(2): what it may do and what it has open. Dropping it closes everything.
pub struct Caller {
    privilege: Privilege,
    descriptors: Descriptors,
}

/// Who knows what a number names.
enum Descriptors {
    /// A table here.
    Table {
        fds_max: usize,
        table: RwLock<FdSlots>,
    },
    /// The process that calls, through its transport.
    Host(Box<dyn Host>),
}

/// A caller with descriptors and a file system of its own: a process behind a transport.
pub trait Host: Send + Sync {
    /// What a descriptor of the process names.
    ///
    /// # Errors
    /// EBADF: it is not open.
    fn file(&self, fd: i32) -> Result<OpenFile, Errno>;

    /// Gives the process a descriptor.
    ///
    /// # Errors
    /// EMFILE, or that the process is gone.
    fn open(&self, file: OpenFile) -> Result<i32, Errno>;

    /// Closes a descriptor of the process that names an object, for a program that calls `bpf_sys_close`.
    ///
    /// # Errors
    /// EBADF: it is not open, or the transport cannot close it.
    fn close(&self, fd: i32) -> Result<(), Errno> {
        let _ = fd;
        Err(Errno::EBADF)
    }

    /// Pins an object at a path as the process sees it.
    ///
    /// # Errors
    /// As `ring3_bpffs::BpfFs::pin`.
    fn pin(&self, at: PathAt<'_>, object: Pinned) -> Result<(), Errno>;

    /// The object pinned at a path as the process sees it.
    ///
    /// # Errors
    /// As `ring3_bpffs::BpfFs::get`.
    fn get(&self, at: PathAt<'_>) -> Result<Pinned, Errno>;

    /// Ends test runs that repeat when the process is gone.
    fn cancel(&self) -> Cancel {
        Cancel::default()
    }

    /// Whether the process, or another, may have memory of a map mapped for writing, which its count of mappings does not say.
    fn is_mapped_writable(&self, map: &Map) -> bool {
        let _ = map;
        false
    }

    /// The thread that calls.
    fn task(&self) -> Task;

    /// Whether the process may make a map of this many bytes.
    ///
    /// # Errors
    /// ENOMEM: more than it may have.
    fn check_memory(&self, bytes: u64) -> Result<(), Errno>;
}

/// A path, and the directory that it begins at.
#[derive(Clone, Copy, Debug)]
pub struct PathAt<'a> {
    /// Descriptor of a directory; `None` is the working directory.
    pub dir: Option<i32>,
    /// Bytes without NUL.
    pub path: &'a [u8],
}

/// What a descriptor names. Clones share it, as dup(2) does.
#[derive(Clone)]
pub enum OpenFile {
    /// A map, with the access of this descriptor.
    Map(Arc<MapFile>),
    /// A program.
    Prog(Arc<Program>),
    /// BTF.
    Btf(Arc<BtfObject>),
    /// A link.
    Link(Arc<LinkObject>),
    /// What an iterator wrote when it was opened.
    Iter(Arc<[u8]>),
    /// What counts the runs of programs while it is open.
    Stats(Object),
    /// A perf event.
    PerfEvent {
        /// What a perf event array holds.
        sink: Object,
        /// What the transport knows it by.
        event: Object,
    },
    /// A file that is no BPF object, announced by the transport.
    Other,
}

/// A map's descriptor: one user of the map.
pub struct MapFile {
    object: Arc<MapObject>,
    access: Access,
}

impl MapFile {
    /// A user of a map.
    pub fn new(object: Arc<MapObject>, access: Access) -> Arc<MapFile> {
        object.map().user_ref_get();
        Arc::new(MapFile { object, access })
    }

    /// The map.
    pub fn object(&self) -> &Arc<MapObject> {
        &self.object
    }

    /// What the descriptor allows.
    pub fn access(&self) -> Access {
        self.access
    }
}

impl Drop for MapFile {
    fn drop(&mut self) {
        self.object.map().user_ref_put();
    }
}

impl Default for Caller {
    fn default() -> Self {
        Caller::new()
    }
}

impl Caller {
    /// A caller with every capability and nothing open.
    pub fn new() -> Caller {
        Caller::with_privilege(Privilege::FULL)
    }

    /// A caller with these capabilities and nothing open.
    pub fn with_privilege(privilege: Privilege) -> Caller {
        Caller {
            privilege,
            descriptors: Descriptors::Table {
                fds_max: FDS_MAX,
                table: RwLock::default(),
            },
        }
    }

    /// A caller whose descriptors a transport knows.
    pub fn with_host(privilege: Privilege, host: Box<dyn Host>) -> Caller {
        Caller {
            privilege,
            descriptors: Descriptors::Host(host),
        }
    }

    /// The same with another limit of open descriptors; a transport has its own.
    pub fn with_fds_max(mut self, most: usize) -> Caller {
        if let Descriptors::Table { fds_max, .. } = &mut self.descriptors {
            *fds_max = most;
        }
        self
    }

    /// Its transport, if it has one.
    pub(crate) fn host(&self) -> Option<&dyn Host> {
        match &self.descriptors {
            Descriptors::Table { .. } => None,
            Descriptors::Host(host) => Some(&**host),
        }
    }

    /// Capabilities.
    pub fn privilege(&self) -> Privilege {
        self.privilege
    }

    /// Gives a file the lowest free number.
    ///
    /// # Errors
    /// EMFILE: all are taken.
    pub fn open(&self, file: OpenFile) -> Result<i32, Errno> {
        let (mut table, fds_max) = match &self.descriptors {
            Descriptors::Table { fds_max, table } => (table.write(), *fds_max),
            Descriptors::Host(host) => return host.open(file),
        };
        if table.open_count() >= fds_max {
            return Err(Errno::EMFILE);
        }
        let fd = table.lowest_free().ok_or(Errno::EMFILE)?;
        table.insert(fd, file);
        Ok(fd)
    }

    /// Puts a file at a number, as dup3(2) does; what was there is closed.
    ///
    /// # Errors
    /// EBADF: a negative number, or a caller whose transport has the descriptors.
    pub fn install(&self, fd: i32, file: OpenFile) -> Result<(), Errno> {
        if fd < 0 {
            return Err(Errno::EBADF);
        }
        let Descriptors::Table { table, .. } = &self.descriptors else {
            return Err(Errno::EBADF);
        };
        let replaced = table.write().insert(fd, file);
        drop(replaced);
        Ok(())
    }

    /// Closes a descriptor.
    ///
    /// # Errors
    /// EBADF: it is not open, or the transport that has the descriptors cannot close it.
    pub fn close(&self, fd: i32) -> Result<(), Errno> {
        let table = match &self.descriptors {
            Descriptors::Table { table, .. } => table,
            Descriptors::Host(host) => return host.close(fd),
        };
        let closed = table.write().remove(fd);
        closed.map(drop).ok_or(Errno::EBADF)
    }

    /// What a descriptor names.
    ///
    /// # Errors
    /// EBADF: it is not open.
    pub fn file(&self, fd: i32) -> Result<OpenFile, Errno> {
        match &self.descriptors {
            Descriptors::Table { table, .. } => table.read().get(fd).cloned().ok_or(Errno::EBADF),
            Descriptors::Host(host) => host.file(fd),
        }
    }

    /// # Errors
    /// EBADF: not open. EINVAL: no map.
    pub(crate) fn map(&self, fd: i32) -> Result<Arc<MapFile>, Errno> {
        match self.file(fd)? {
            OpenFile::Map(map) => Ok(map),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Does something to an element of a map. Where that cannot come back to the descriptors, they are held instead of a reference to the map; as a program that
    /// opens descriptors does so within its read section, nothing that holds them waits for readers: what would have to is done again without.
    ///
    /// # Errors
    /// EBADF: not open. EINVAL: no map. As `run`, which has done nothing where it says ENOMEM.
    #[inline]
    pub(crate) fn with_map<R>(
        &self,
        fd: i32,
        mut run: impl FnMut(&MapFile) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let Descriptors::Table { table, .. } = &self.descriptors else {
            return run(&*self.map(fd)?);
        };
        let files = table.read();
        let map = match files.get(fd).ok_or(Errno::EBADF)? {
            OpenFile::Map(map) => map,
            _ => return Err(Errno::EINVAL),
        };
        if has_plain_values(map.object().map().map_type()) {
            // In a section waiting for readers is refused.
            let _section = rcu::read();
            match run(map) {
                Err(Errno::ENOMEM) => {}
                result => return result,
            }
        }
        let map = Arc::clone(map);
        drop(files);
        run(&map)
    }

    /// # Errors
    /// EBADF: not open. EINVAL: no program.
    pub(crate) fn prog(&self, fd: i32) -> Result<Arc<Program>, Errno> {
        match self.file(fd)? {
            OpenFile::Prog(prog) => Ok(prog),
            _ => Err(Errno::EINVAL),
        }
    }

    /// # Errors
    /// EBADF: not open. EINVAL: no BTF.
    pub(crate) fn btf(&self, fd: i32) -> Result<Arc<BtfObject>, Errno> {
        match self.file(fd)? {
            OpenFile::Btf(btf) => Ok(btf),
            _ => Err(Errno::EINVAL),
        }
    }

    /// # Errors
    /// EBADF: not open. EINVAL: no link.
    pub(crate) fn link(&self, fd: i32) -> Result<Arc<LinkObject>, Errno> {
        match self.file(fd)? {
            OpenFile::Link(link) => Ok(link),
            _ => Err(Errno::EINVAL),
        }
    }

    /// What a program's instructions or `fd_array` may name with a number.
    pub(crate) fn named_by_program(&self, fd: i32) -> Option<Named> {
        match self.file(fd).ok()? {
            OpenFile::Map(map) => Some(Named::Map(Arc::clone(map.object()))),
            OpenFile::Btf(btf) => Some(Named::Btf(btf.btf().clone())),
            _ => Some(Named::Other),
        }
    }
}

/// Whether neither keys nor values of a type are descriptors.
fn has_plain_values(map_type: MapType) -> bool {
    matches!(
        map_type,
        MapType::Hash
            | MapType::PercpuHash
            | MapType::LruHash
            | MapType::LruPercpuHash
            | MapType::Array
            | MapType::PercpuArray
            | MapType::LpmTrie
            | MapType::Queue
            | MapType::Stack
            | MapType::BloomFilter
    )
}

/// See [`Caller::named_by_program`].
pub(crate) enum Named {
    Map(Arc<MapObject>),
    Btf(Btf),
    Other,
}

impl FdTable for Caller {
    fn prog(&self, fd: u32) -> Result<ProgSlot, Errno> {
        Ok(Caller::prog(self, fd as i32)?.array_slot())
    }

    fn map(&self, fd: u32) -> Result<Arc<Map>, Errno> {
        Ok(Arc::clone(Caller::map(self, fd as i32)?.object().map()))
    }

    fn perf_event(&self, fd: u32) -> Result<Object, Errno> {
        match self.file(fd as i32)? {
            OpenFile::PerfEvent { sink, .. } => Ok(sink),
            _ => Err(Errno::EBADF),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_given() {
        let caller = Caller::new().with_fds_max(3);
        let open = || caller.open(OpenFile::Other);
        assert_eq!((open(), open(), open()), (Ok(3), Ok(4), Ok(5)));
        assert_eq!(open(), Err(Errno::EMFILE));
        assert_eq!(caller.close(4), Ok(()));
        assert_eq!(caller.close(4), Err(Errno::EBADF));
        assert_eq!(open(), Ok(4));
        assert_eq!(caller.map(4).err(), Some(Errno::EINVAL));
        assert_eq!(caller.map(-1).err(), Some(Errno::EBADF));
        assert_eq!(caller.install(i32::MAX, OpenFile::Other), Ok(()));
    }
}
