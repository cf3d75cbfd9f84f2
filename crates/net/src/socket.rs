//! `TapSocket`: a socket that hears the frames of a device, or of all, through a socket filter: what it keeps of each.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use ring3_helpers::packet::{PacketProgram, Skb};
use ring3_objects::{Error, Program};
use ring3_sync::{RcuPair, rcu};
use ring3_uapi::{Errno, ProgType};

use crate::{Counts, HookSlot};

/// Frames that wait to be received; more are dropped.
const QUEUE_MAX: usize = 1024;

/// A socket that hears frames as they come in, before tcx.
pub struct TapSocket {
    ifindex: Option<u32>,
    filter: RcuPair<Option<HookSlot>>,
    queue: Mutex<VecDeque<Vec<u8>>>,
}

impl TapSocket {
    pub(crate) fn new(ifindex: Option<u32>) -> Arc<TapSocket> {
        Arc::new(TapSocket {
            ifindex,
            filter: RcuPair::new([None, None]),
            queue: Mutex::default(),
        })
    }

    /// Puts a filter in the place of the one before (`SO_ATTACH_BPF`), or takes it off with `None`.
    ///
    /// # Errors
    /// EINVAL: no socket filter. EBUSY: inside of a program run.
    pub fn set_filter(&self, prog: Option<&Arc<Program>>) -> Result<(), Error> {
        if let Some(prog) = prog {
            crate::attach::check_type(prog, ProgType::SocketFilter)?;
        }
        let mut removed = None;
        self.filter.edit(
            |_, new| {
                *new = prog.map(|prog| HookSlot::new(prog, None));
                Ok::<_, Error>(())
            },
            |old| removed = old.take(),
        )?;
        drop(removed);
        Ok(())
    }

    /// What the filter did: runs, and frames it refused.
    pub fn filter_counts(&self) -> Option<Arc<Counts>> {
        let section = rcu::read();
        let slot = self.filter.read(&section).as_ref()?;
        Some(Arc::clone(&slot.counts))
    }

    /// The oldest frame that was kept, cut to what the filter said.
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.queue.lock().pop_front()
    }

    /// Hears a packet on a device.
    pub(crate) fn deliver(&self, ifindex: u32, skb: &mut Skb) {
        if self.ifindex.is_some_and(|own| own != ifindex) {
            return;
        }
        let kept = match self.run_filter(skb) {
            Ok(kept) => kept.min(skb.frame().len()),
            Err(_) => 0,
        };
        let mut queue = self.queue.lock();
        if kept > 0 && queue.len() < QUEUE_MAX {
            queue.push_back(skb.frame()[..kept].to_owned());
        }
    }

    /// Bytes that the filter keeps; without one, all.
    fn run_filter(&self, skb: &mut Skb) -> Result<usize, Errno> {
        let section = rcu::read();
        let Some(slot) = self.filter.read(&section) else {
            return Ok(usize::MAX);
        };
        let program = PacketProgram::over(&*slot.prog)?;
        slot.counts.count_run();
        let kept = program.run(skb);
        if kept == 0 {
            slot.counts.count_stop();
        }
        Ok(kept as usize)
    }
}
