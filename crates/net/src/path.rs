//! `PacketPath`: the way of a packet through devices, in memory that is used again for the next one.
//!
//! Received: XDP, then tcx and clsact at ingress, then the cgroup's programs and the stack. Sent: tcx and clsact at egress, then the wire, and
//! the peer at its other end. A redirect goes on with the same packet at another device.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ring3_helpers::packet::{Skb, Sock, SockSpec, XdpBuff};
use ring3_objects::{Error, Program};
use ring3_uapi::Errno;

use crate::{
    cgroup::Cgroup,
    device::{Device, Direction, bump},
    world::{LastDevice, Net},
};

mod tc;
mod xdp;

/// Hooks that one packet and its copies may pass; a packet that goes round is dropped.
const HOPS_MAX: u32 = 16;
/// Packets that may wait for their turn.
const QUEUE_MAX: usize = 4096;

/// Where a packet left the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Out of a device's wire.
    Sent,
    /// Into the stack.
    Stack,
    /// Into an AF_XDP socket.
    Socket,
}

/// Hears every packet that leaves the model: how, on which device, its bytes.
pub type Sink = Box<dyn FnMut(Exit, &Device, &[u8]) + Send>;

enum Work {
    Receive { ifindex: u32, frame: Vec<u8> },
    Ingress { ifindex: u32, frame: Vec<u8> },
    Send { ifindex: u32, frame: Vec<u8> },
}

/// Carries packets, one after the other.
pub struct PacketPath {
    net: Net,
    cgroup: Arc<Cgroup>,
    /// Whose packets are sent.
    socket: Option<Arc<Sock>>,
    xdp: Box<XdpBuff>,
    copy: Box<XdpBuff>,
    skb: Box<Skb>,
    queue: VecDeque<Work>,
    hops: u32,
    last: LastDevice,
    sink: Option<Sink>,
}

impl PacketPath {
    /// A path through a network.
    pub fn new(net: &Net) -> PacketPath {
        const EMPTY: [u8; 14] = [0; 14];
        let lo = net.devices().into_iter().next();
        let dev = lo.map_or_else(
            || ring3_helpers::packet::NetDevice::new(1, "lo", 65536),
            |lo| Arc::clone(lo.net_device()),
        );
        let xdp = || XdpBuff::received(&EMPTY, &dev, 0).expect("a whole link header");
        PacketPath {
            net: net.clone(),
            cgroup: Arc::clone(net.root_cgroup()),
            socket: None,
            xdp: xdp(),
            copy: xdp(),
            skb: Skb::received(&EMPTY, &dev).expect("a whole link header"),
            queue: VecDeque::new(),
            hops: 0,
            last: LastDevice::default(),
            sink: None,
        }
    }

    /// Says who hears the packets that leave.
    #[must_use]
    pub fn with_sink(mut self, sink: Sink) -> PacketPath {
        self.sink = Some(sink);
        self
    }

    /// Says which cgroup the sockets are in whose packets travel; the root, if nobody does.
    pub fn set_cgroup(&mut self, cgroup: &Arc<Cgroup>) {
        self.socket = Some(Sock::new(SockSpec {
            cgroups: cgroup.ancestor_ids(),
            classid: cgroup.classid(),
            ..SockSpec::default()
        }));
        self.cgroup = Arc::clone(cgroup);
    }

    /// A frame arrives at a device, and everything happens that follows from it.
    ///
    /// # Errors
    /// EINVAL: shorter than a link header, or longer than 65535 bytes.
    pub fn inject(&mut self, device: &Arc<Device>, frame: &[u8]) -> Result<(), Error> {
        self.enter(frame, |path| path.receive(device, frame))
    }

    /// A frame with metadata before it arrives at a device, where this XDP program is run instead of the device's own, and everything happens that
    /// follows from it.
    ///
    /// # Errors
    /// As [`PacketPath::inject`]. EINVAL: no XDP program, or metadata that is none.
    pub(crate) fn inject_through(
        &mut self,
        device: &Arc<Device>,
        prog: &Program,
        metadata: &[u8],
        frame: &[u8],
    ) -> Result<(), Error> {
        let mut outcome = Ok(());
        self.enter(frame, |path| {
            outcome = path.receive_through(device, prog, metadata, frame);
        })?;
        outcome.map_err(|errno| {
            let bytes = metadata.len();
            Error::new(errno, format!("a frame with metadata of {bytes} bytes"))
        })
    }

    /// The stack sends a frame out of a device.
    ///
    /// # Errors
    /// As [`PacketPath::inject`].
    pub fn send(&mut self, device: &Arc<Device>, frame: &[u8]) -> Result<(), Error> {
        self.enter(frame, |path| {
            if path.fill(device, frame) {
                path.skb.set_socket(path.socket.clone());
                if path.cgroup_passes(Direction::Egress) {
                    path.travel(Direction::Egress, Arc::clone(device));
                } else {
                    bump(&device.counters.cgroup_drop);
                }
            }
        })
    }

    /// Brings in what waits on the device of the host that a device is connected with; how many frames. Waits for the first of them.
    ///
    /// # Errors
    /// ENODEV: the device is not connected. ENETDOWN, EIO: the device of the host is down.
    pub fn pump(&mut self, device: &Arc<Device>, timeout: Duration) -> Result<usize, Error> {
        /// Frames of one call, so that a busy device does not keep it for ever.
        const BATCH: usize = 64;
        let Some(wire) = device.wire() else {
            let message = format!("device '{}' has no wire", device.name());
            return Err(Error::new(Errno::ENODEV, message));
        };
        let mut frame = vec![0; 0x1_0000];
        let mut wait = timeout;
        for count in 0..BATCH {
            let Some(len) = wire.receive(&mut frame, wait)? else {
                return Ok(count);
            };
            wait = Duration::ZERO;
            // Frames that are too short for a link header are nobody's.
            if let Some(frame) = frame.get(..len).filter(|frame| frame.len() >= 14) {
                self.inject(device, frame)?;
            }
        }
        Ok(BATCH)
    }

    fn enter(&mut self, frame: &[u8], first: impl FnOnce(&mut Self)) -> Result<(), Error> {
        if frame.len() < 14 || frame.len() > 0xffff {
            let message = format!("a frame of {} bytes, expected 14..=65535", frame.len());
            return Err(Error::new(Errno::EINVAL, message));
        }
        let _guard = self.net.enter();
        self.hops = 0;
        first(self);
        loop {
            if self.net.world.has_clones.load(Ordering::Relaxed) {
                self.queue_clones();
            }
            let Some(work) = self.queue.pop_front() else {
                return Ok(());
            };
            self.work(work);
        }
    }

    fn queue_clones(&mut self) {
        for clone in self.net.world.take_clones() {
            let (ifindex, frame) = (clone.ifindex, clone.frame);
            self.push(if clone.ingress {
                Work::Ingress { ifindex, frame }
            } else {
                Work::Send { ifindex, frame }
            });
        }
    }

    fn push(&mut self, work: Work) {
        if self.queue.len() < QUEUE_MAX {
            self.queue.push_back(work);
        }
    }

    fn work(&mut self, work: Work) {
        let (Work::Receive { ifindex, .. }
        | Work::Ingress { ifindex, .. }
        | Work::Send { ifindex, .. }) = work;
        let Some(device) = self.net.device(ifindex) else {
            return;
        };
        self.hops += 1;
        if self.hops > HOPS_MAX {
            bump(&device.counters.redirect_failed);
            return;
        }
        match work {
            Work::Receive { frame, .. } => self.receive(&device, &frame),
            Work::Ingress { frame, .. } => {
                if self.fill(&device, &frame) {
                    self.travel(Direction::Ingress, device);
                }
            }
            Work::Send { frame, .. } => {
                if self.fill(&device, &frame) {
                    self.travel(Direction::Egress, device);
                }
            }
        }
    }

    /// Puts a frame into the packet; false where it is none.
    fn fill(&mut self, device: &Device, frame: &[u8]) -> bool {
        let is_filled = self.skb.refill(frame, device.net_device()).is_ok();
        self.skb.set_ingress_ifindex(device.ifindex());
        is_filled
    }
}
