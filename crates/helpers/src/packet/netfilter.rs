//! `NetfilterRun`: a packet at a hook of the IP stack. Its first bytes are the kernel's `struct bpf_nf_ctx`.
//!
//! # Source
//! BPF_PROG_TEST_RUN of Linux 6.18 (fixtures/oracle/syscall/netfilter.txt).

use std::sync::Arc;

use super::{
    NetDevice, Skb,
    layout::{bpf_nf_ctx as at, nf_hook_state as state},
    object::Object,
};

/// A packet, and where it is. Programs read both by their types.
#[repr(C)]
pub struct NetfilterRun {
    object: Object<{ at::BYTES }>,
    state: Object<{ state::BYTES }>,
    _skb: Box<Skb>,
    devices: [Option<Arc<NetDevice>>; 2],
}

impl NetfilterRun {
    /// A packet at hook number `hook` (`NF_INET_*`) of family `family` (`NFPROTO_*`), between two devices.
    pub fn new(
        mut skb: Box<Skb>,
        hook: u8,
        family: u8,
        devices: [Option<Arc<NetDevice>>; 2],
    ) -> Box<NetfilterRun> {
        let packet = skb.program_ptr();
        let mut this = Box::new(NetfilterRun {
            object: Object::zeroed(),
            state: Object::zeroed(),
            _skb: skb,
            devices,
        });
        let [input, output] = this
            .devices
            .each_ref()
            .map(|device| device.as_ref().map_or(0, |device| device.program_ptr()));
        this.state.set_u8(state::HOOK, hook);
        this.state.set_u8(state::PF, family);
        this.state.set_u64(state::IN, input);
        this.state.set_u64(state::OUT, output);
        let state = std::ptr::from_ref(&this.state).expose_provenance() as u64;
        this.object.set_u64(at::STATE, state);
        this.object.set_u64(at::SKB, packet);
        this
    }

    /// The pointer that programs get as their context.
    pub fn program_ptr(&mut self) -> u64 {
        std::ptr::from_mut(self).expose_provenance() as u64
    }
}
