//! Running packet programs over packets: the one place that promises a program the context its type says.

use ring3_runtime::{Entry, ProgObject, RunStats, is_anyone_counting, run_in_section};
use ring3_sync::rcu;
use ring3_uapi::{Errno, ProgType};

use super::{Skb, XdpBuff};

/// Program types whose context is an `sk_buff`.
pub const SKB_PROG_TYPES: &[ProgType] = &[
    ProgType::SocketFilter,
    ProgType::SchedCls,
    ProgType::SchedAct,
    ProgType::CgroupSkb,
    ProgType::LwtIn,
    ProgType::LwtOut,
    ProgType::LwtXmit,
    ProgType::LwtSeg6local,
    ProgType::SkSkb,
];

/// A program whose context was checked to be an `sk_buff` or `xdp_buff`, ready to run many times.
#[derive(Clone, Copy)]
pub struct PacketProgram<'a> {
    entry: Entry,
    prog: &'a dyn ProgObject,
}

impl<'a> PacketProgram<'a> {
    /// A program that runs over [`Skb`]s.
    ///
    /// # Errors
    /// EINVAL: the program's context is something else.
    pub fn over_skb(prog: &'a dyn ProgObject) -> Result<SkbProgram<'a>, Errno> {
        if !SKB_PROG_TYPES.contains(&prog.prog_type()) {
            return Err(Errno::EINVAL);
        }
        Ok(SkbProgram(PacketProgram {
            entry: prog.entry(),
            prog,
        }))
    }

    /// Where its runs are counted, if anybody counts.
    #[inline]
    fn stats(&self) -> Option<&'a RunStats> {
        if is_anyone_counting() {
            self.prog.run_stats()
        } else {
            None
        }
    }

    /// A program that runs over [`XdpBuff`]s.
    ///
    /// # Errors
    /// EINVAL: not an XDP program.
    pub fn over_xdp(prog: &'a dyn ProgObject) -> Result<XdpProgram<'a>, Errno> {
        if prog.prog_type() != ProgType::Xdp {
            return Err(Errno::EINVAL);
        }
        Ok(XdpProgram(PacketProgram {
            entry: prog.entry(),
            prog,
        }))
    }
}

/// A program over socket buffers.
#[derive(Clone, Copy)]
pub struct SkbProgram<'a>(PacketProgram<'a>);

impl SkbProgram<'_> {
    /// One run; the low half of r0.
    #[inline]
    pub fn run(&self, skb: &mut Skb) -> u32 {
        let ctx = skb.program_ptr();
        let _section = rcu::read();
        let run = || {
            // SAFETY: 1. the program is borrowed, so it is alive; 2. its type was checked: the context is an sk_buff, which an `Skb` begins
            // with; 3. the skb is borrowed for the run; 4. a read section is active.
            unsafe { run_in_section(&self.0.entry, ctx) as u32 }
        };
        match self.0.stats() {
            None => run(),
            Some(stats) => stats.measure(run),
        }
    }
}

/// A program over XDP frames.
#[derive(Clone, Copy)]
pub struct XdpProgram<'a>(PacketProgram<'a>);

impl XdpProgram<'_> {
    /// One run; the low half of r0.
    #[inline]
    pub fn run(&self, xdp: &mut XdpBuff) -> u32 {
        let ctx = xdp.program_ptr();
        let _section = rcu::read();
        let run = || {
            // SAFETY: as for skbs, with an xdp_buff.
            unsafe { run_in_section(&self.0.entry, ctx) as u32 }
        };
        match self.0.stats() {
            None => run(),
            Some(stats) => stats.measure(run),
        }
    }
}
