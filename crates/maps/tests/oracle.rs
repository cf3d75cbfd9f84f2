//! ring3's maps against the recorded answers of the reference kernel: every line of every script of fixtures/oracle/maps.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ring3_maps::fd::{FdTable, StorageKind};
use ring3_maps::{Access, BatchArgs, BatchCmd, Map, MapAttr, MapType, Mapping, MappingAccess, abi};
use ring3_sync::rcu;

#[expect(
    dead_code,
    unreachable_pub,
    reason = "shared with testkit, which also records"
)]
#[path = "../../testkit/src/map_oracle/mod.rs"]
mod map_oracle;

use map_oracle::{Answer, Batch, BatchCall, Bytes, Create, Elem, Errno, Subject};

/// Descriptors that scripts name beside maps, from 50.
const SPECIAL: &[&str] = &["sock", "file", "self", "cgroup"];

/// Answers that differ on purpose: file, operation, and why.
const DIVERGENCES: &[(&str, &str, &str)] = &[];

#[derive(Default)]
struct Ring3 {
    maps: BTreeMap<String, Arc<Map>>,
    accesses: BTreeMap<String, Access>,
    tokens: BTreeMap<String, Vec<u8>>,
    mappings: Vec<Mapping>,
    next_id: u32,
}

/// Descriptors: the position of a map by name, from 100.
struct Fds<'a>(&'a BTreeMap<String, Arc<Map>>);

impl FdTable for Fds<'_> {
    fn map(&self, fd: u32) -> Result<Arc<Map>, ring3_maps::Errno> {
        let index = fd.checked_sub(100).ok_or(ring3_maps::Errno::EBADF)?;
        self.0
            .values()
            .nth(index as usize)
            .cloned()
            .ok_or(ring3_maps::Errno::EBADF)
    }

    fn prog(&self, fd: u32) -> Result<ring3_maps::ProgSlot, ring3_maps::Errno> {
        // No script has a program: what is open is a map.
        Err(self
            .map(fd)
            .map_or_else(|errno| errno, |_| ring3_maps::Errno::EINVAL))
    }

    fn net_device(&self, ifindex: u32) -> Result<ring3_maps::fd::Object, ring3_maps::Errno> {
        // The loopback device is everywhere.
        if ifindex == 1 {
            Ok(Arc::new(()))
        } else {
            Err(ring3_maps::Errno::EINVAL)
        }
    }

    fn storage_owner(&self, kind: StorageKind, fd: u32) -> Result<u64, ring3_maps::Errno> {
        let wanted = match kind {
            StorageKind::Socket => "sock",
            StorageKind::Inode => "file",
            StorageKind::Task => "self",
            StorageKind::Cgroup => "cgroup",
        };
        let is_it = SPECIAL
            .iter()
            .position(|name| *name == wanted)
            .is_some_and(|at| at as u32 + 50 == fd);
        // Every descriptor has an inode.
        if is_it || (kind == StorageKind::Inode && (50..53).contains(&fd)) {
            return Ok(u64::from(fd));
        }
        let open = self.map(fd).is_ok();
        Err(if open && kind == StorageKind::Socket {
            ring3_maps::Errno::ENOTSOCK
        } else {
            ring3_maps::Errno::EBADF
        })
    }
}

fn is_program(elem: Elem) -> bool {
    use Elem::{ProgDelete, ProgLookup, ProgPeek, ProgPop, ProgPush, ProgUpdate};
    matches!(
        elem,
        ProgDelete | ProgLookup | ProgPeek | ProgPop | ProgPush | ProgUpdate
    )
}

fn raw(errno: ring3_maps::Errno) -> Errno {
    errno.raw()
}

impl Ring3 {
    fn map(&self, name: &str) -> Result<Arc<Map>, Errno> {
        self.maps
            .get(name)
            .cloned()
            .ok_or(ring3_maps::Errno::EBADF.raw())
    }

    fn bytes(&self, bytes: &Bytes) -> Option<Vec<u8>> {
        match bytes {
            Bytes::Null => None,
            Bytes::Given(bytes) => Some(bytes.clone()),
            Bytes::PerCpu(bytes) => Some(bytes.repeat(ring3_os::cpu::possible_cpus())),
            Bytes::Fd(name) => {
                let special = name
                    .as_ref()
                    .and_then(|name| SPECIAL.iter().position(|special| special == name));
                let map = name
                    .as_ref()
                    .and_then(|name| self.maps.keys().position(|key| key == name));
                let fd = special
                    .map(|at| at as u32 + 50)
                    .or(map.map(|at| at as u32 + 100));
                Some(fd.unwrap_or(u32::MAX).to_ne_bytes().to_vec())
            }
        }
    }

    fn program(&self, map: &Map, elem: Elem, key: &[u8], value: &[u8], flags: u64) -> Answer {
        let _run = rcu::read();
        let (pointer, key) = (map.program_ptr(), key.as_ptr() as u64);
        let mut buffer = vec![0; map.value_size() as usize];
        // SAFETY: the script gives keys and values of the map's sizes; the buffer has the value's.
        unsafe {
            let found = match elem {
                Elem::ProgLookup => abi::lookup_elem(pointer, key, 0, 0, 0) as *const u8,
                _ => std::ptr::null(),
            };
            let result = match elem {
                Elem::ProgLookup => i64::from(!found.is_null()),
                Elem::ProgUpdate => {
                    abi::update_elem(pointer, key, value.as_ptr() as u64, flags, 0) as i64
                }
                Elem::ProgDelete => abi::delete_elem(pointer, key, 0, 0, 0) as i64,
                Elem::ProgPush => {
                    abi::push_elem(pointer, value.as_ptr() as u64, flags, 0, 0) as i64
                }
                Elem::ProgPop => abi::pop_elem(pointer, buffer.as_mut_ptr() as u64, 0, 0, 0) as i64,
                _ => abi::peek_elem(pointer, buffer.as_mut_ptr() as u64, 0, 0, 0) as i64,
            };
            if !found.is_null() {
                let bytes = buffer.len();
                buffer.copy_from_slice(std::slice::from_raw_parts(found, bytes));
            }
            buffer.truncate(8);
            let has_value =
                !found.is_null() || (matches!(elem, Elem::ProgPop | Elem::ProgPeek) && result == 0);
            Answer {
                result,
                bytes: has_value.then_some(buffer),
                ..Answer::default()
            }
        }
    }
}

impl Subject for Ring3 {
    fn create(&mut self, name: &str, create: &Create) -> Result<(), Errno> {
        let map_type =
            MapType::from_name(&create.map_type).ok_or(ring3_maps::Errno::EINVAL.raw())?;
        let mut attr = MapAttr::new(
            map_type,
            create.key_size,
            create.value_size,
            create.max_entries,
        )
        .with_flags(create.map_flags)
        .with_extra(create.map_extra)
        .with_name(&create.name);
        attr.numa_node = create.numa_node;
        attr.btf_key_type_id = u32::from(create.btf);
        attr.btf_value_type_id = 2 * u32::from(create.btf);
        attr.inner = create
            .inner
            .as_ref()
            .and_then(|inner| self.maps.get(inner).cloned());
        let map = Map::create(&attr).map_err(|error| raw(error.errno))?;
        self.next_id += 1;
        map.set_id(self.next_id);
        self.accesses.insert(
            name.to_owned(),
            Access::from_flags(create.map_flags).map_err(raw)?,
        );
        self.maps.insert(name.to_owned(), map);
        Ok(())
    }

    fn elem(
        &mut self,
        name: &str,
        elem: Elem,
        key: &Bytes,
        value: &Bytes,
        flags: u64,
    ) -> Result<Answer, Errno> {
        let map = self.map(name)?;
        let access = self.accesses[name];
        let (key, given) = (self.bytes(key), self.bytes(value));
        // What a transport does with a null pointer.
        let null_key = key.is_none()
            && map.key_size() != 0
            && !matches!(elem, Elem::NextKey)
            && !is_program(elem);
        if null_key || (elem == Elem::Update && given.is_none() && map.sys_value_bytes() != 0) {
            return Err(ring3_maps::Errno::EFAULT.raw());
        }
        let key_or_empty = key.clone().unwrap_or_default();
        let fds = Fds(&self.maps);
        let mut out = given
            .clone()
            .unwrap_or_else(|| vec![0; map.sys_value_bytes()]);
        let answer = match elem {
            Elem::Lookup => map
                .sys_lookup_with(access, &key_or_empty, &mut out, flags, &fds)
                .map(|()| out),
            Elem::LookupAndDelete => map
                .sys_lookup_and_delete(access, &key_or_empty, &mut out, flags)
                .map(|()| out),
            Elem::NextKey => {
                let mut next = vec![0; map.key_size() as usize];
                map.sys_next_key(access, key.as_deref(), &mut next)
                    .map(|()| next)
            }
            Elem::Update => {
                let value = given.unwrap_or_default();
                return map
                    .sys_update(access, &key_or_empty, &value, flags, &fds)
                    .map(|()| Answer::default())
                    .map_err(raw);
            }
            Elem::Delete => {
                return map
                    .sys_delete(access, &key_or_empty, &fds)
                    .map(|()| Answer::default())
                    .map_err(raw);
            }
            _ => {
                return Ok(self.program(
                    &map,
                    elem,
                    &key_or_empty,
                    &given.unwrap_or_default(),
                    flags,
                ));
            }
        };
        let bytes = answer.map_err(raw)?;
        if elem != Elem::NextKey
            && matches!(map.map_type(), MapType::ArrayOfMaps | MapType::HashOfMaps)
        {
            let id = u32::from_ne_bytes(bytes[..4].try_into().unwrap());
            let name = self
                .maps
                .iter()
                .find(|(_, map)| map.id() == id)
                .map(|(name, _)| name.clone());
            return Ok(Answer {
                id_of: name,
                ..Answer::default()
            });
        }
        Ok(Answer {
            bytes: Some(bytes),
            ..Answer::default()
        })
    }

    fn batch(&mut self, name: &str, call: &BatchCall) -> (Answer, Result<(), Errno>) {
        let BatchCall {
            batch,
            continues,
            count,
            ref keys,
            ref values,
            elem_flags: flags,
        } = *call;
        let map = match self.map(name) {
            Ok(map) => map,
            Err(errno) => return (Answer::default(), Err(errno)),
        };
        let cmd = match batch {
            Batch::Lookup => BatchCmd::Lookup,
            Batch::LookupAndDelete => BatchCmd::LookupAndDelete,
            Batch::Update => BatchCmd::Update,
            Batch::Delete => BatchCmd::Delete,
        };
        let token = if continues {
            self.tokens.get(name).cloned()
        } else {
            None
        };
        let args = BatchArgs {
            in_batch: token.as_deref(),
            keys,
            values,
            count,
            elem_flags: flags,
            flags: 0,
        };
        let (result, outcome) = map.sys_batch(self.accesses[name], cmd, &args, &Fds(&self.maps));
        let mut answer = Answer {
            count: Some(result.count.unwrap_or(count)),
            ..Answer::default()
        };
        if matches!(batch, Batch::Lookup | Batch::LookupAndDelete) {
            let mut values = result.values;
            if matches!(map.map_type(), MapType::ArrayOfMaps | MapType::HashOfMaps) {
                // Ids differ from run to run.
                values.fill(0);
            }
            answer.batch = Some((result.keys, values));
            if let Some(token) = result.out_batch {
                self.tokens.insert(name.to_owned(), token);
            }
        }
        (answer, outcome.map_err(raw))
    }

    fn freeze(&mut self, name: &str) -> Result<(), Errno> {
        self.map(name)?.sys_freeze(self.accesses[name]).map_err(raw)
    }

    fn mmap(
        &mut self,
        name: &str,
        page: usize,
        pages: usize,
        writable: bool,
    ) -> Result<Answer, Errno> {
        let bytes = ring3_os::cpu::page_bytes();
        let access = if writable {
            MappingAccess::Write
        } else {
            MappingAccess::Read
        };
        self.mappings.push(
            self.map(name)?
                .mmap(self.accesses[name], page * bytes, pages * bytes, access)
                .map_err(raw)?,
        );
        Ok(Answer::default())
    }

    fn munmap(&mut self) {
        self.mappings.clear();
    }

    fn close(&mut self, name: &str) {
        self.maps.remove(name);
    }

    fn sizes(&self, name: &str) -> (usize, usize) {
        self.maps.get(name).map_or((0, 0), |map| {
            (map.key_size() as usize, map.sys_value_bytes())
        })
    }
}

#[test]
fn every_recorded_answer_of_the_kernel_is_ours() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle/maps");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    // Programs of the scripts ran on CPU 0.
    let _ = ring3_os::cpu::bind_to_cpu(0);
    let (mut lines, mut different, mut divergences) = (0, Vec::new(), 0);
    for path in &paths {
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        let recorded = std::fs::read_to_string(path).unwrap();
        let ours = map_oracle::run(
            &recorded,
            &mut Ring3::default(),
            ring3_os::cpu::possible_cpus(),
        )
        .unwrap();
        assert_eq!(recorded.lines().count(), ours.lines().count());
        for (number, (kernel, ours)) in recorded.lines().zip(ours.lines()).enumerate() {
            if kernel.starts_with('#') || kernel.is_empty() {
                continue;
            }
            lines += 1;
            if kernel != ours {
                let operation = kernel.split(" -> ").next().unwrap();
                if DIVERGENCES
                    .iter()
                    .any(|(of, what, _)| *of == file && *what == operation)
                {
                    divergences += 1;
                    continue;
                }
                different.push(format!(
                    "{file}:{}\n  kernel {kernel}\n  ring3  {ours}",
                    number + 1
                ));
            }
        }
    }
    assert!(lines > 500, "only {lines} recorded answers found");
    assert_eq!(
        divergences,
        DIVERGENCES.len(),
        "a divergence that is none any more"
    );
    assert!(
        different.is_empty(),
        "{} of {lines} answers differ:\n{}",
        different.len(),
        different.join("\n")
    );
}
