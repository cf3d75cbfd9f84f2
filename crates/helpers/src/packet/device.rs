//! `NetDevice`: a device as programs see it through `skb->dev` and `rxq->dev`.

use std::sync::Arc;

use super::{layout::net_device as at, object::Object};

/// Memory laid out as `struct net_device`, with the fields that programs and helpers read.
#[repr(C)]
pub struct NetDevice {
    object: Object<{ at::BYTES }>,
    name: String,
}

impl NetDevice {
    /// A device with this ifindex, name and MTU in bytes.
    pub fn new(ifindex: u32, name: &str, mtu: u32) -> Arc<NetDevice> {
        let mut object = Object::zeroed();
        object.set_u32(at::IFINDEX, ifindex);
        object.set_u32(at::MTU, mtu);
        Arc::new(NetDevice {
            object,
            name: name.to_owned(),
        })
    }

    /// Interface index, from 1.
    pub fn ifindex(&self) -> u32 {
        self.object.u32(at::IFINDEX)
    }

    /// Largest network-layer packet, in bytes.
    pub fn mtu(&self) -> u32 {
        self.object.u32(at::MTU)
    }

    /// Name, such as `lo`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pointer programs see.
    pub(super) fn program_ptr(&self) -> u64 {
        std::ptr::from_ref(self).expose_provenance() as u64
    }
}
