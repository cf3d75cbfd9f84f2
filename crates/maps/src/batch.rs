//! Batch commands: `BPF_MAP_{LOOKUP,LOOKUP_AND_DELETE,UPDATE,DELETE}_BATCH`.
//!
//! Most types run them key by key in the order of `BPF_MAP_GET_NEXT_KEY`; hash tables walk their buckets, with a position in the table as
//! the token instead of a key. Results come back with a count even where an error ends the batch.

use ring3_sync::rcu;
use ring3_uapi::Errno;
use ring3_uapi::flags::map_elem;

use crate::Map;
use crate::fd::FdTable;
use crate::map::Access;

/// Which batch command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchCmd {
    /// `BPF_MAP_LOOKUP_BATCH`
    Lookup,
    /// `BPF_MAP_LOOKUP_AND_DELETE_BATCH`
    LookupAndDelete,
    /// `BPF_MAP_UPDATE_BATCH`
    Update,
    /// `BPF_MAP_DELETE_BATCH`
    Delete,
}

/// How a type runs batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchStyle {
    /// Not at all: `ENOTSUPP`.
    Unsupported,
    /// Key by key.
    Generic {
        /// Whether there is a delete command.
        delete: bool,
    },
    /// By a walk of the table ([`crate::MapOps::batch_walk`]); updates and deletes key by key.
    Walk {
        /// Whether elements can be deleted (and looked up and deleted).
        delete: bool,
    },
}

/// Arguments of a batch command, out of guest memory.
#[derive(Debug)]
pub struct BatchArgs<'a> {
    /// `in_batch`: the token to go on from; the key size long for generic types, 4 bytes for hash tables.
    pub in_batch: Option<&'a [u8]>,
    /// Keys of an update or delete, one after another.
    pub keys: &'a [u8],
    /// Values of an update.
    pub values: &'a [u8],
    /// `count`: elements given, or asked for.
    pub count: u32,
    /// `elem_flags`.
    pub elem_flags: u64,
    /// `flags`.
    pub flags: u64,
}

/// What a batch command leaves behind, error or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchResult {
    /// `count`: elements done; `None` where the kernel leaves the caller's number.
    pub count: Option<u32>,
    /// Keys of a lookup, one after another.
    pub keys: Vec<u8>,
    /// Values of a lookup.
    pub values: Vec<u8>,
    /// `out_batch`, where written.
    pub out_batch: Option<Vec<u8>>,
}

/// One element of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchItem {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value, as system calls see it.
    pub value: Vec<u8>,
}

/// State of a walk of a hash table.
#[derive(Debug)]
pub struct BatchWalk<'a> {
    /// Where to go on; updated.
    pub token: u32,
    /// Elements that still fit.
    pub room: usize,
    /// Whether to delete what is taken.
    pub delete: bool,
    /// `elem_flags`.
    pub elem_flags: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// What was taken.
    pub items: &'a mut Vec<BatchItem>,
}

impl Map {
    /// Runs a batch command. The result is valid beside an error: some elements may be done.
    pub fn sys_batch(
        &self,
        access: Access,
        cmd: BatchCmd,
        args: &BatchArgs<'_>,
        fds: &dyn FdTable,
    ) -> (BatchResult, Result<(), Errno>) {
        let mut result = BatchResult::default();
        let outcome = self.batch(access, cmd, args, fds, &mut result);
        (result, outcome)
    }

    fn batch(
        &self,
        access: Access,
        cmd: BatchCmd,
        args: &BatchArgs<'_>,
        fds: &dyn FdTable,
        result: &mut BatchResult,
    ) -> Result<(), Errno> {
        let reads = matches!(cmd, BatchCmd::Lookup | BatchCmd::LookupAndDelete);
        if reads {
            self.check_read(access)?;
        }
        if cmd != BatchCmd::Lookup {
            self.check_write(access)?;
        }
        let style = self.ops().batch_style();
        let (deletes, walks) = match style {
            BatchStyle::Unsupported => return Err(Errno::ENOTSUPP),
            BatchStyle::Generic { delete } => (delete, false),
            BatchStyle::Walk { delete } => (delete, true),
        };
        match cmd {
            BatchCmd::Lookup | BatchCmd::LookupAndDelete if walks => {
                if cmd == BatchCmd::LookupAndDelete && !deletes {
                    return Err(Errno::ENOTSUPP);
                }
                self.batch_by_walk(cmd, args, result)
            }
            BatchCmd::Lookup => self.batch_lookup(args, result),
            BatchCmd::LookupAndDelete => Err(Errno::ENOTSUPP),
            BatchCmd::Update => self.batch_update(args, fds, result),
            BatchCmd::Delete if deletes => self.batch_delete(args, fds, result),
            BatchCmd::Delete => Err(Errno::ENOTSUPP),
        }
    }

    fn check_elem_flags(&self, elem_flags: u64) -> Result<(), Errno> {
        if elem_flags & !map_elem::LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        self.check_sys_flags(elem_flags)
    }

    fn batch_lookup(&self, args: &BatchArgs<'_>, result: &mut BatchResult) -> Result<(), Errno> {
        self.check_elem_flags(args.elem_flags)?;
        if args.count == 0 {
            return Ok(());
        }
        result.count = Some(0);
        let key_bytes = self.key_size() as usize;
        let mut key = vec![0; key_bytes];
        let mut value = vec![0; self.sys_value_bytes()];
        let _section = rcu::read();
        let mut last = args.in_batch.map(<[u8]>::to_vec);
        let mut done = 0;
        let mut outcome = Ok(());
        while done < args.count {
            outcome = self.ops().sys_next_key(last.as_deref(), &mut key);
            if outcome.is_err() {
                break;
            }
            match self.ops().sys_lookup(&key, &mut value, args.elem_flags) {
                Ok(()) => {
                    result.keys.extend_from_slice(&key);
                    result.values.extend_from_slice(&value);
                    done += 1;
                }
                // Deleted since; the walk goes on behind it.
                Err(Errno::ENOENT) => {}
                Err(errno) => {
                    outcome = Err(errno);
                    break;
                }
            }
            last = Some(key.clone());
        }
        result.count = Some(done);
        if done > 0 {
            result.out_batch = last;
        }
        outcome
    }

    fn batch_by_walk(
        &self,
        cmd: BatchCmd,
        args: &BatchArgs<'_>,
        result: &mut BatchResult,
    ) -> Result<(), Errno> {
        self.check_elem_flags(args.elem_flags)?;
        if args.flags != 0 {
            return Err(Errno::EINVAL);
        }
        if args.count == 0 {
            return Ok(());
        }
        result.count = Some(0);
        let token = args
            .in_batch
            .and_then(|bytes| bytes.first_chunk().copied())
            .map_or(0, u32::from_ne_bytes);
        let mut items = Vec::new();
        let mut walk = BatchWalk {
            token,
            room: args.count as usize,
            delete: cmd == BatchCmd::LookupAndDelete,
            elem_flags: args.elem_flags,
            value_bytes: self.sys_value_bytes(),
            items: &mut items,
        };
        let outcome = self.ops().batch_walk(&mut walk);
        let token_after = walk.token;
        if outcome == Err(Errno::ENOENT)
            && items.is_empty()
            && token_after == token
            && args.in_batch.is_some()
        {
            return outcome;
        }
        for item in &items {
            result.keys.extend_from_slice(&item.key);
            result.values.extend_from_slice(&item.value);
        }
        result.count = Some(items.len() as u32);
        result.out_batch = Some(token_after.to_ne_bytes().to_vec());
        outcome
    }

    fn batch_update(
        &self,
        args: &BatchArgs<'_>,
        fds: &dyn FdTable,
        result: &mut BatchResult,
    ) -> Result<(), Errno> {
        self.check_elem_flags(args.elem_flags)?;
        if args.count == 0 {
            return Ok(());
        }
        let keys = args.keys.chunks_exact((self.key_size() as usize).max(1));
        let values = args.values.chunks_exact(self.sys_value_bytes().max(1));
        let mut done = 0;
        let mut outcome = Ok(());
        for (key, value) in keys.zip(values).take(args.count as usize) {
            outcome = self.ops().sys_update(key, value, args.elem_flags, fds);
            if outcome.is_err() {
                break;
            }
            done += 1;
        }
        result.count = Some(done);
        outcome
    }

    fn batch_delete(
        &self,
        args: &BatchArgs<'_>,
        fds: &dyn FdTable,
        result: &mut BatchResult,
    ) -> Result<(), Errno> {
        self.check_elem_flags(args.elem_flags)?;
        if args.count == 0 {
            return Ok(());
        }
        let keys = args.keys.chunks_exact((self.key_size() as usize).max(1));
        let mut done = 0;
        let mut outcome = Ok(());
        for key in keys.take(args.count as usize) {
            outcome = self.ops().sys_delete(key, fds);
            if outcome.is_err() {
                break;
            }
            done += 1;
        }
        result.count = Some(done);
        outcome
    }
}
