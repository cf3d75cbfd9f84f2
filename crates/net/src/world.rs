//! `Net`: devices, routes and neighbours, and what programs are attached to. Packets travel in [`crate::PacketPath`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use ring3_helpers::packet::{NetDevice, PacketWorld, RouteAnswer, RouteHop, RouteQuery};
use ring3_maps::fd::FdTable;
use ring3_mprog::Anchor;
use ring3_objects::{Error, LinkDetail, LinkObject, LinkOps, Program, System};
use ring3_uapi::{AttachType, Errno, LinkType, ProgType};

use crate::{
    device::{Device, Direction},
    hook::{Held, HookSlot, MultiHook},
};

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Forward.
    Unicast,
    /// Drop silently.
    Blackhole,
    /// Drop, say unreachable.
    Unreachable,
    /// Drop, say prohibited.
    Prohibit,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// IPv6 instead of IPv4.
    pub is_ipv6: bool,
    /// Destination; IPv4 addresses are the first four bytes.
    pub prefix: [u8; 16],
    /// Bits of the destination that count.
    pub prefix_bits: u8,
    /// What it does.
    pub kind: RouteKind,
    /// Device.
    pub ifindex: u32,
    /// Next hop, if not the destination itself.
    pub gateway: Option<[u8; 16]>,
    /// Lower is preferred.
    pub metric: u32,
}

impl Route {
    fn matches(&self, query: &RouteQuery) -> bool {
        self.is_ipv6 == query.is_ipv6
            && (0..usize::from(self.prefix_bits)).all(|bit| {
                let differ = self.prefix[bit / 8] ^ query.destination[bit / 8];
                differ & (0x80 >> (bit % 8)) == 0
            })
    }
}

/// A packet that a program sent a copy of.
pub(crate) struct Cloned {
    pub(crate) frame: Vec<u8>,
    pub(crate) ifindex: u32,
    pub(crate) ingress: bool,
}

/// Copies that may wait; more are dropped.
const CLONES_MAX: usize = 1024;

/// Device and address.
type NextHop = (u32, [u8; 16]);

/// The state behind a [`Net`].
pub(crate) struct World {
    pub(crate) devices: RwLock<BTreeMap<u32, Arc<Device>>>,
    routes: RwLock<Vec<Route>>,
    /// Link address by device and next hop.
    neighbours: RwLock<BTreeMap<NextHop, [u8; 6]>>,
    clones: Mutex<Vec<Cloned>>,
    pub(crate) has_clones: AtomicBool,
    next_ifindex: AtomicU32,
    /// The cgroup that every packet belongs to.
    pub(crate) cgroup: [MultiHook; 2],
}

impl World {
    pub(crate) fn get(&self, ifindex: u32) -> Option<Arc<Device>> {
        self.devices.read().get(&ifindex).cloned()
    }

    pub(crate) fn take_clones(&self) -> Vec<Cloned> {
        self.has_clones.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.clones.lock())
    }
}

impl PacketWorld for World {
    fn device(&self, ifindex: u32) -> Option<Arc<NetDevice>> {
        self.get(ifindex)
            .map(|device| Arc::clone(device.net_device()))
    }

    fn peer(&self, ifindex: u32) -> Option<u32> {
        self.get(ifindex)?.peer()
    }

    fn route(&self, query: &RouteQuery) -> RouteAnswer {
        const BLACKHOLE: u8 = 1;
        const UNREACHABLE: u8 = 2;
        const PROHIBIT: u8 = 3;
        const NOT_FORWARDED: u8 = 4;
        if self.get(query.ifindex).is_none() {
            return RouteAnswer::NoDevice;
        }
        let routes = self.routes.read();
        let found = routes
            .iter()
            .filter(|route| route.matches(query))
            .max_by_key(|route| (route.prefix_bits, std::cmp::Reverse(route.metric)));
        let Some(route) = found else {
            return RouteAnswer::Stopped(NOT_FORWARDED);
        };
        match route.kind {
            RouteKind::Blackhole => return RouteAnswer::Stopped(BLACKHOLE),
            RouteKind::Unreachable => return RouteAnswer::Stopped(UNREACHABLE),
            RouteKind::Prohibit => return RouteAnswer::Stopped(PROHIBIT),
            RouteKind::Unicast => {}
        }
        let Some(device) = self.get(route.ifindex) else {
            return RouteAnswer::Stopped(UNREACHABLE);
        };
        let next = route.gateway.unwrap_or(query.destination);
        let neighbour = self.neighbours.read().get(&(route.ifindex, next)).copied();
        RouteAnswer::Forward(RouteHop {
            ifindex: route.ifindex,
            mtu: device.mtu(),
            gateway: route.gateway,
            metric: route.metric,
            link: neighbour.map(|next| (device.mac(), next)),
        })
    }

    fn send_clone(&self, frame: &[u8], ifindex: u32, ingress: bool) -> Result<(), Errno> {
        self.get(ifindex).ok_or(Errno::EINVAL)?;
        let mut clones = self.clones.lock();
        if clones.len() < CLONES_MAX {
            clones.push(Cloned {
                frame: frame.to_owned(),
                ifindex,
                ingress,
            });
            self.has_clones.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A network of devices.
#[derive(Clone)]
pub struct Net {
    system: Arc<System>,
    pub(crate) world: Arc<World>,
}

impl Net {
    /// A network with `lo` (index 1) in it.
    pub fn new(system: &Arc<System>) -> Net {
        const LOOPBACK_MTU: u32 = 65536;
        let net = Net {
            system: Arc::clone(system),
            world: Arc::new(World {
                devices: RwLock::default(),
                routes: RwLock::default(),
                neighbours: RwLock::default(),
                clones: Mutex::default(),
                has_clones: AtomicBool::new(false),
                next_ifindex: AtomicU32::new(1),
                cgroup: Default::default(),
            }),
        };
        net.add_device_with("lo", LOOPBACK_MTU, [0; 6], 1)
            .expect("the first device has a fresh name");
        net
    }

    /// The system that programs and links belong to.
    pub fn system(&self) -> &Arc<System> {
        &self.system
    }

    /// Adds an Ethernet device with one queue, MTU 1500 and an address made of its index.
    ///
    /// # Errors
    /// EEXIST: the name is taken. EINVAL: an empty name, or one of more than 15 bytes.
    pub fn add_device(&self, name: &str) -> Result<Arc<Device>, Error> {
        let next = self
            .world
            .next_ifindex
            .load(Ordering::Relaxed)
            .to_be_bytes();
        let mac = [2, 0, next[0], next[1], next[2], next[3]];
        self.add_device_with(name, 1500, mac, 1)
    }

    /// Adds a device.
    ///
    /// # Errors
    /// As [`Net::add_device`].
    pub fn add_device_with(
        &self,
        name: &str,
        mtu: u32,
        mac: [u8; 6],
        queues: u32,
    ) -> Result<Arc<Device>, Error> {
        const NAME_BYTES_MAX: usize = 15;
        let refuse = |errno| Err(Error::new(errno, format!("device '{name}'")));
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return refuse(Errno::EINVAL);
        }
        let mut devices = self.world.devices.write();
        if devices.values().any(|device| device.name() == name) {
            return refuse(Errno::EEXIST);
        }
        let ifindex = self.world.next_ifindex.fetch_add(1, Ordering::Relaxed);
        let device = Arc::new(Device::new(ifindex, name, mtu, mac, queues));
        devices.insert(ifindex, Arc::clone(&device));
        Ok(device)
    }

    /// Joins two devices: what one sends, the other receives.
    pub fn join(&self, a: &Device, b: &Device) {
        a.set_peer(b.ifindex());
        b.set_peer(a.ifindex());
    }

    /// Takes a device away; its links are detached, links stay as objects.
    ///
    /// # Errors
    /// ENODEV: there is none.
    pub fn remove_device(&self, ifindex: u32) -> Result<(), Error> {
        let removed = self.world.devices.write().remove(&ifindex);
        let device = removed.ok_or_else(|| no_device(ifindex))?;
        for link in device.links.lock().drain(..) {
            if let Some(link) = link.upgrade() {
                link.orphan();
            }
        }
        if let Some(peer) = device.peer().and_then(|peer| self.world.get(peer)) {
            peer.set_peer(0);
        }
        Ok(())
    }

    /// The device with an index.
    pub fn device(&self, ifindex: u32) -> Option<Arc<Device>> {
        self.world.get(ifindex)
    }

    /// The device with a name.
    ///
    /// # Errors
    /// ENODEV, with the names there are.
    pub fn device_by_name(&self, name: &str) -> Result<Arc<Device>, Error> {
        let devices = self.world.devices.read();
        devices
            .values()
            .find(|device| device.name() == name)
            .cloned()
            .ok_or_else(|| {
                let names: Vec<_> = devices.values().map(|device| device.name()).collect();
                let message = format!("no device '{name}', there are: {}", names.join(", "));
                Error::new(Errno::ENODEV, message)
            })
    }

    /// Every device, by index.
    pub fn devices(&self) -> Vec<Arc<Device>> {
        self.world.devices.read().values().cloned().collect()
    }

    /// Adds a route.
    ///
    /// # Errors
    /// EINVAL: more prefix bits than the address has. ENODEV: the device of a unicast route does not exist.
    pub fn add_route(&self, route: Route) -> Result<(), Error> {
        let bits = if route.is_ipv6 { 128 } else { 32 };
        if route.prefix_bits > bits {
            let message = format!("route of {} prefix bits, at most {bits}", route.prefix_bits);
            return Err(Error::new(Errno::EINVAL, message));
        }
        if route.kind == RouteKind::Unicast && self.device(route.ifindex).is_none() {
            return Err(no_device(route.ifindex));
        }
        self.world.routes.write().push(route);
        Ok(())
    }

    /// Says the link address of a next hop behind a device.
    pub fn add_neighbour(&self, ifindex: u32, address: [u8; 16], mac: [u8; 6]) {
        self.world
            .neighbours
            .write()
            .insert((ifindex, address), mac);
    }

    /// The hook of the cgroup that every packet belongs to.
    pub fn cgroup(&self, direction: Direction) -> &MultiHook {
        &self.world.cgroup[direction as usize]
    }

    /// Attaches an XDP program to a device, or takes it off with `None`.
    ///
    /// # Errors
    /// EINVAL: no XDP program. EBUSY: a link holds the place.
    pub fn set_xdp(&self, device: &Device, prog: Option<&Arc<Program>>) -> Result<(), Error> {
        if let Some(prog) = prog {
            check_type(prog, ProgType::Xdp)?;
        }
        device.xdp.update(|old| match old {
            Some(HookSlot { link: Some(_), .. }) => {
                let message = format!("device '{}': a link holds its XDP program", device.name());
                (old.clone(), Err(Error::new(Errno::EBUSY, message)))
            }
            _ => (prog.map(|prog| HookSlot::new(prog, None)), Ok(())),
        })
    }

    /// Attaches an XDP program through a link.
    ///
    /// # Errors
    /// EINVAL: no XDP program. EBUSY: there is one already.
    pub fn link_xdp(
        &self,
        device: &Arc<Device>,
        prog: &Arc<Program>,
    ) -> Result<Arc<LinkObject>, Error> {
        check_type(prog, ProgType::Xdp)?;
        let ops = Arc::new(XdpLink(Arc::downgrade(device)));
        let link = LinkObject::create(&self.system, LinkType::Xdp, prog, ops, |id| {
            device.xdp.update(|old| match old {
                Some(_) => {
                    let message = format!("device '{}' has an XDP program", device.name());
                    (old.clone(), Err(Error::new(Errno::EBUSY, message)))
                }
                None => (Some(HookSlot::new(prog, Some(id))), Ok(())),
            })
        })?;
        device.links.lock().push(Arc::downgrade(&link));
        Ok(link)
    }

    /// Attaches a classifier at a tcx hook.
    ///
    /// # Errors
    /// EINVAL: no classifier. Else as [`MultiHook::attach`].
    pub fn attach_tcx(
        &self,
        device: &Device,
        direction: Direction,
        prog: &Arc<Program>,
        anchor: &Anchor<Held, u32>,
        expected_revision: Option<u64>,
    ) -> Result<(), Error> {
        check_type(prog, ProgType::SchedCls)?;
        device
            .tcx(direction)
            .attach(prog, None, anchor, expected_revision)
    }

    /// Attaches a classifier at a tcx hook through a link.
    ///
    /// # Errors
    /// As [`Net::attach_tcx`].
    pub fn link_tcx(
        &self,
        device: &Arc<Device>,
        direction: Direction,
        prog: &Arc<Program>,
        anchor: &Anchor<Held, u32>,
        expected_revision: Option<u64>,
    ) -> Result<Arc<LinkObject>, Error> {
        check_type(prog, ProgType::SchedCls)?;
        let ops = Arc::new(TcxLink {
            device: Arc::downgrade(device),
            direction,
        });
        let link = LinkObject::create(&self.system, LinkType::Tcx, prog, ops, |id| {
            device
                .tcx(direction)
                .attach(prog, Some(id), anchor, expected_revision)
        })?;
        device.links.lock().push(Arc::downgrade(&link));
        Ok(link)
    }
}

/// Devices for the device maps of programs.
impl FdTable for Net {
    fn net_device(&self, ifindex: u32) -> Result<ring3_maps::fd::Object, Errno> {
        match self.device(ifindex) {
            Some(device) => Ok(device),
            None => Err(Errno::EINVAL),
        }
    }
}

fn no_device(ifindex: u32) -> Error {
    Error::new(Errno::ENODEV, format!("no device with index {ifindex}"))
}

fn check_type(prog: &Arc<Program>, wanted: ProgType) -> Result<(), Error> {
    if prog.prog_type() == wanted {
        return Ok(());
    }
    let message = format!(
        "program '{}' is of type {}, expected {wanted}",
        prog.name(),
        prog.prog_type()
    );
    Err(Error::new(Errno::EINVAL, message))
}

fn gone(link: u32) -> Error {
    Error::new(Errno::ENOLINK, format!("link {link}: its device is gone"))
}

struct XdpLink(Weak<Device>);

impl LinkOps for XdpLink {
    fn update(&self, link: u32, _from: &Arc<Program>, to: &Arc<Program>) -> Result<(), Error> {
        let device = self.0.upgrade().ok_or_else(|| gone(link))?;
        device.xdp.store(Some(HookSlot::new(to, Some(link))));
        Ok(())
    }

    fn detach(&self, _link: u32, _prog: &Arc<Program>) {
        if let Some(device) = self.0.upgrade() {
            device.xdp.store(None);
        }
    }

    fn info(&self) -> LinkDetail {
        LinkDetail {
            ifindex: self.0.upgrade().map_or(0, |device| device.ifindex()),
            attach_type: AttachType::Xdp.raw(),
        }
    }
}

struct TcxLink {
    device: Weak<Device>,
    direction: Direction,
}

impl LinkOps for TcxLink {
    fn update(&self, link: u32, from: &Arc<Program>, to: &Arc<Program>) -> Result<(), Error> {
        let device = self.device.upgrade().ok_or_else(|| gone(link))?;
        device.tcx(self.direction).update_link(link, from, to)
    }

    fn detach(&self, link: u32, prog: &Arc<Program>) {
        if let Some(device) = self.device.upgrade() {
            // A link that is attached is an entry of its hook, so this finds it.
            let _ =
                device
                    .tcx(self.direction)
                    .detach(Some(prog), Some(link), &Anchor::none(), None);
        }
    }

    fn info(&self) -> LinkDetail {
        let attach_type = match self.direction {
            Direction::Ingress => AttachType::TcxIngress,
            Direction::Egress => AttachType::TcxEgress,
        };
        LinkDetail {
            ifindex: self.device.upgrade().map_or(0, |device| device.ifindex()),
            attach_type: attach_type.raw(),
        }
    }
}
