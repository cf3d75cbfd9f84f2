//! `TypedMap`: a map with Rust types for key and value.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use ring3_sync::rcu;
use ring3_uapi::Errno;
use ring3_uapi::flags::map_elem;

use crate::fd::NoFds;
use crate::map::{Access, Map};
use crate::{MapError, mem};

/// Plain old data: a type with a fixed size that is made from and into bytes. Arrays of plain data are plain.
pub trait Plain: Sized {
    /// Bytes of the type.
    const BYTES: usize;

    /// Writes the bytes; `out` is [`Plain::BYTES`] long.
    fn write_to(&self, out: &mut [u8]);

    /// Reads the bytes; `bytes` is [`Plain::BYTES`] long.
    fn read_from(bytes: &[u8]) -> Self;
}

macro_rules! plain_numbers {
    ($($number:ty),*) => {
        $(impl Plain for $number {
            const BYTES: usize = size_of::<$number>();

            fn write_to(&self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_ne_bytes());
            }

            fn read_from(bytes: &[u8]) -> Self {
                bytes.first_chunk().copied().map_or(0, <$number>::from_ne_bytes)
            }
        })*
    };
}

plain_numbers!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);

impl<T: Plain, const N: usize> Plain for [T; N] {
    const BYTES: usize = T::BYTES * N;

    fn write_to(&self, out: &mut [u8]) {
        for (item, chunk) in self.iter().zip(out.chunks_exact_mut(T::BYTES.max(1))) {
            item.write_to(chunk);
        }
    }

    fn read_from(bytes: &[u8]) -> Self {
        std::array::from_fn(|index| T::read_from(&bytes[index * T::BYTES..(index + 1) * T::BYTES]))
    }
}

/// Keys and values up to this size live on the stack.
const SMALL_BYTES: usize = 256;

/// Calls `use_bytes` with the bytes of an item; they are on the stack where they fit.
#[inline(always)]
fn with_bytes<T: Plain, R>(item: &T, use_bytes: impl FnOnce(&[u8]) -> R) -> R {
    with_room(T::BYTES, |room| {
        item.write_to(room);
        use_bytes(room)
    })
}

/// Calls `use_room` with zeroed bytes, on the stack where they fit.
#[inline(always)]
fn with_room<R>(len_bytes: usize, use_room: impl FnOnce(&mut [u8]) -> R) -> R {
    // Three sizes: what is not needed is not cleared.
    if len_bytes <= 16 {
        use_room(&mut [0; 16][..len_bytes])
    } else if len_bytes <= SMALL_BYTES {
        use_room(&mut [0; SMALL_BYTES][..len_bytes])
    } else {
        use_room(&mut vec![0; len_bytes])
    }
}

/// A map seen through Rust types. For per-CPU maps, [`TypedMap::get_percpu`] and [`TypedMap::set_percpu`] have one value a CPU.
pub struct TypedMap<K, V> {
    map: Arc<Map>,
    _types: PhantomData<fn() -> (K, V)>,
}

impl<K: Plain, V: Plain> TypedMap<K, V> {
    /// A view of a map whose key and value sizes are those of the types.
    ///
    /// # Errors
    /// `EINVAL`: the sizes differ.
    pub fn new(map: Arc<Map>) -> Result<Self, MapError> {
        let attr = map.attr();
        attr.require(
            attr.key_size as usize == K::BYTES,
            "key_size",
            format_args!("{}, the key type has {}", attr.key_size, K::BYTES),
        )?;
        attr.require(
            attr.value_size as usize == V::BYTES,
            "value_size",
            format_args!("{}, the value type has {}", attr.value_size, V::BYTES),
        )?;
        Ok(TypedMap {
            map,
            _types: PhantomData,
        })
    }

    /// The map.
    pub fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// The value of a key, CPU 0's for per-CPU maps.
    pub fn get(&self, key: &K) -> Option<V> {
        let Some(copy) = self.map.copy_fn() else {
            return self.get_as_syscall(key);
        };
        with_bytes(key, |key| {
            with_room(V::BYTES, |value| {
                // SAFETY: 1. the function is of this map; 2. key and value have its sizes, by the check in `new`.
                let found = unsafe { copy(self.map.hot(), key.as_ptr(), value.as_mut_ptr()) };
                found.then(|| V::read_from(value))
            })
        })
    }

    fn get_as_syscall(&self, key: &K) -> Option<V> {
        with_bytes(key, |key| {
            with_room(self.map.sys_value_bytes(), |value| {
                self.map.sys_lookup(Access::ReadWrite, key, value, 0).ok()?;
                Some(V::read_from(value.get(..V::BYTES)?))
            })
        })
    }

    /// The values of a key, by CPU; one for plain maps.
    pub fn get_percpu(&self, key: &K) -> Option<Vec<V>> {
        let mut values = vec![0; self.map.sys_value_bytes()];
        with_bytes(key, |key| {
            self.map
                .sys_lookup(Access::ReadWrite, key, &mut values, 0)
                .ok()
        })?;
        Some(
            values
                .chunks_exact(self.value_stride().max(1))
                .map(|chunk| V::read_from(&chunk[..V::BYTES]))
                .collect(),
        )
    }

    /// Creates or replaces an element; every CPU gets the value in a per-CPU map.
    ///
    /// # Errors
    /// `E2BIG`: full or beyond the end. `EPERM`: frozen.
    pub fn insert(&self, key: &K, value: &V) -> Result<(), Errno> {
        self.update(key, value, map_elem::ANY)
    }

    /// As [`TypedMap::insert`] with `BPF_NOEXIST` or `BPF_EXIST`.
    ///
    /// # Errors
    /// Also `EEXIST` and `ENOENT`.
    pub fn update(&self, key: &K, value: &V, flags: u64) -> Result<(), Errno> {
        with_bytes(key, |key| {
            with_bytes(value, |value| match self.map.copy_fn() {
                Some(_) => self.update_direct(key, value, flags),
                None => self.update_as_syscall(key, value, flags),
            })
        })
    }

    #[inline]
    fn update_direct(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let (map, update) = (self.map.program_ptr(), self.map.monomorphic_update());
        let (key, value) = (key.as_ptr() as u64, value.as_ptr() as u64);
        // Freezing waits for sections that may not have seen it.
        let _section = rcu::read();
        if self.map.is_frozen() {
            return Err(Errno::EPERM);
        }
        // SAFETY: 1. the map is alive, key and value have its sizes, by the check in `new`; 2. inside a read section.
        errno_of(unsafe { update(map, key, value, flags, 0) })
    }

    fn update_as_syscall(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let stride = self.value_stride();
        with_room(self.map.sys_value_bytes(), |all| {
            for chunk in all.chunks_exact_mut(stride.max(1)) {
                chunk[..V::BYTES].copy_from_slice(value);
            }
            self.map
                .sys_update(Access::ReadWrite, key, all, flags, &NoFds)
        })
    }

    /// Bytes from one CPU's value to the next one's in system calls.
    fn value_stride(&self) -> usize {
        if self.map.sys_value_bytes() == V::BYTES {
            V::BYTES
        } else {
            mem::round_up_8(V::BYTES)
        }
    }

    /// Sets one value a CPU.
    ///
    /// # Errors
    /// `EINVAL`: not one value for each possible CPU. Else as [`TypedMap::insert`].
    pub fn set_percpu(&self, key: &K, values: &[V]) -> Result<(), Errno> {
        let stride = self.value_stride();
        let mut bytes = vec![0; values.len() * stride];
        for (value, chunk) in values.iter().zip(bytes.chunks_exact_mut(stride.max(1))) {
            value.write_to(&mut chunk[..V::BYTES]);
        }
        with_bytes(key, |key| {
            self.map
                .sys_update(Access::ReadWrite, key, &bytes, map_elem::ANY, &NoFds)
        })
    }

    /// Deletes an element.
    ///
    /// # Errors
    /// `ENOENT`: not there. `EINVAL`: elements of this type cannot be deleted.
    pub fn remove(&self, key: &K) -> Result<(), Errno> {
        with_bytes(key, |key| {
            if self.map.copy_fn().is_none() {
                return self.map.sys_delete(Access::ReadWrite, key, &NoFds);
            }
            let (map, delete) = (self.map.program_ptr(), self.map.monomorphic_delete());
            let _section = rcu::read();
            if self.map.is_frozen() {
                return Err(Errno::EPERM);
            }
            // SAFETY: as `update_direct`.
            errno_of(unsafe { delete(map, key.as_ptr() as u64, 0, 0, 0) })
        })
    }

    /// All keys, in the order of `BPF_MAP_GET_NEXT_KEY`.
    pub fn keys(&self) -> Keys<'_, K, V> {
        Keys {
            view: self,
            last: None,
            seen: 0,
        }
    }

    /// All keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (K, V)> + '_ {
        self.keys().filter_map(|key| {
            let value = self.get(&key)?;
            Some((key, value))
        })
    }
}

/// Iterates over keys; ends even if others insert and delete all the time.
pub struct Keys<'view, K, V> {
    view: &'view TypedMap<K, V>,
    last: Option<K>,
    seen: u64,
}

impl<K: Plain, V: Plain> Iterator for Keys<'_, K, V> {
    type Item = K;

    fn next(&mut self) -> Option<K> {
        // A deleted key restarts the kernel's walk; nobody wants to walk for ever.
        if self.seen > 2 * u64::from(self.view.map.max_entries()) {
            return None;
        }
        let map = &self.view.map;
        let key = with_room(K::BYTES, |next| {
            match &self.last {
                None => map.sys_next_key(Access::ReadWrite, None, next),
                Some(last) => with_bytes(last, |last| {
                    map.sys_next_key(Access::ReadWrite, Some(last), next)
                }),
            }
            .ok()?;
            Some(K::read_from(next))
        })?;
        self.seen += 1;
        self.last = with_bytes(&key, |bytes| Some(K::read_from(bytes)));
        Some(key)
    }
}

/// A helper's result word.
#[inline]
fn errno_of(result: u64) -> Result<(), Errno> {
    match result as i64 {
        0 => Ok(()),
        negative => Err(Errno::from_raw(negative.unsigned_abs() as i32)),
    }
}

impl<K: Plain + fmt::Debug, V: Plain + fmt::Debug> fmt::Debug for TypedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
