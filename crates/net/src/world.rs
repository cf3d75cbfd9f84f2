//! `Net`: devices, routes and neighbours. Programs are attached in `attach`; packets travel in [`crate::PacketPath`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use ring3_helpers::packet::{
    NetDevice, PacketWorld, RouteAnswer, RouteHop, RouteQuery, Skb, WorldGuard,
};
use ring3_maps::{DevMap, fd::FdTable};
use ring3_objects::{Error, System};
use ring3_uapi::Errno;

use crate::{
    cgroup::Cgroup,
    device::{Device, DeviceSpec},
    route::{Route, RouteKind},
    socket::TapSocket,
};

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
    /// Changes with every device that comes or goes.
    generation: AtomicU64,
    root_cgroup: Arc<Cgroup>,
    next_cgroup: AtomicU64,
    sockets: RwLock<Vec<Weak<TapSocket>>>,
    pub(crate) has_sockets: AtomicBool,
}

impl World {
    pub(crate) fn get(&self, ifindex: u32) -> Option<Arc<Device>> {
        self.devices.read().get(&ifindex).cloned()
    }

    /// Sockets hear a packet that came in on a device.
    pub(crate) fn deliver(&self, ifindex: u32, skb: &mut Skb) {
        let sockets: Vec<_> = self
            .sockets
            .read()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for socket in sockets {
            socket.deliver(ifindex, skb);
        }
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
        const FORWARDING_OFF: u8 = 5;
        match self.get(query.ifindex) {
            None => return RouteAnswer::NoDevice,
            Some(device) if !device.forwards(query.is_ipv6) => {
                return RouteAnswer::Stopped(FORWARDING_OFF);
            }
            Some(_) => {}
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
            RouteKind::Local => return RouteAnswer::Stopped(NOT_FORWARDED),
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

/// The device that was looked up last, as long as none comes or goes.
#[derive(Default)]
pub(crate) struct LastDevice {
    device: Option<Arc<Device>>,
    generation: u64,
}

impl LastDevice {
    /// The device with an index.
    pub(crate) fn get(&mut self, world: &World, ifindex: u32) -> Option<Arc<Device>> {
        let generation = world.generation.load(Ordering::Acquire);
        let known = self.device.as_ref();
        if let Some(device) = known.filter(|device| device.ifindex() == ifindex)
            && self.generation == generation
        {
            return Some(Arc::clone(device));
        }
        self.device = world.get(ifindex);
        self.generation = generation;
        self.device.clone()
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
                generation: AtomicU64::new(0),
                root_cgroup: Cgroup::root(),
                next_cgroup: AtomicU64::new(2),
                sockets: RwLock::default(),
                has_sockets: AtomicBool::new(false),
            }),
        };
        let lo = DeviceSpec {
            mtu: LOOPBACK_MTU,
            mac: Some([0; 6]),
            ..DeviceSpec::new("lo")
        };
        net.add_device_with(&lo)
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
    /// As [`Net::add_device_with`].
    pub fn add_device(&self, name: &str) -> Result<Arc<Device>, Error> {
        self.add_device_with(&DeviceSpec::new(name))
    }

    /// Adds a device.
    ///
    /// # Errors
    /// EEXIST: the name is taken. EBUSY: the index is taken. EINVAL: an index of 0, an empty name, or one of more than 15 bytes.
    pub fn add_device_with(&self, spec: &DeviceSpec) -> Result<Arc<Device>, Error> {
        const NAME_BYTES_MAX: usize = 15;
        let refuse = |errno| Err(Error::new(errno, format!("device '{}'", spec.name)));
        if spec.name.is_empty() || spec.name.len() > NAME_BYTES_MAX || spec.ifindex == Some(0) {
            return refuse(Errno::EINVAL);
        }
        let mut devices = self.world.devices.write();
        if devices.values().any(|device| device.name() == spec.name) {
            return refuse(Errno::EEXIST);
        }
        let free = || {
            let last = devices.last_key_value();
            let next = self.world.next_ifindex.load(Ordering::Relaxed);
            last.map_or(next, |(last, _)| next.max(last.saturating_add(1)))
        };
        let ifindex = spec.ifindex.unwrap_or_else(free);
        if devices.contains_key(&ifindex) {
            return refuse(Errno::EBUSY);
        }
        let after = ifindex.saturating_add(1);
        self.world.next_ifindex.fetch_max(after, Ordering::Relaxed);
        let device = Arc::new(Device::new(ifindex, spec));
        devices.insert(ifindex, Arc::clone(&device));
        self.world.generation.fetch_add(1, Ordering::Release);
        Ok(device)
    }

    /// Enters the network: as long as the guard lives, the helpers of programs that run on this thread see its devices and routes. Packets that
    /// travel do so by themselves; this is for test runs.
    pub fn enter(&self) -> WorldGuard {
        let world: Arc<dyn PacketWorld> = self.world.clone();
        WorldGuard::enter(world)
    }

    /// Joins two devices: what one sends, the other receives.
    pub fn join(&self, a: &Device, b: &Device) {
        a.set_peer(b.ifindex());
        b.set_peer(a.ifindex());
    }

    /// Takes a device away; its links are detached, links stay as objects; device maps lose it.
    ///
    /// # Errors
    /// ENODEV: there is none. EBUSY: inside of a program run.
    pub fn remove_device(&self, ifindex: u32) -> Result<(), Error> {
        let removed = self.world.devices.write().remove(&ifindex);
        self.world.generation.fetch_add(1, Ordering::Release);
        let device = removed.ok_or_else(|| no_device(ifindex))?;
        device.end()?;
        if let Some(peer) = device.peer().and_then(|peer| self.world.get(peer)) {
            peer.set_peer(0);
        }
        let next_id = |&id: &u32| self.system.next_map_id(id);
        for id in std::iter::successors(next_id(&0), next_id) {
            if let Some(map) = self.system.map_by_id(id)
                && let Some(devices) = map.map().downcast::<DevMap>()
            {
                let refuse = |errno| Error::new(errno, format!("map {id} is being changed"));
                devices.remove_device(ifindex).map_err(refuse)?;
            }
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

    /// Gives a device an address of `prefix_bits`: packets to it end here, its neighbours lie behind the device.
    ///
    /// # Errors
    /// As [`Net::add_route`].
    pub fn add_address(&self, route: Route) -> Result<(), Error> {
        let bits = usize::from(route.prefix_bits);
        let mut network = route;
        for (at, byte) in network.prefix.iter_mut().enumerate() {
            let kept = bits.saturating_sub(at * 8).min(8) as u32;
            *byte &= 0xffu8.checked_shl(8 - kept).unwrap_or(0);
        }
        self.add_route(network)?;
        self.add_route(Route {
            prefix_bits: if route.is_ipv6 { 128 } else { 32 },
            kind: RouteKind::Local,
            ..route
        })
    }

    /// Says the link address of a next hop behind a device.
    pub fn add_neighbour(&self, ifindex: u32, address: [u8; 16], mac: [u8; 6]) {
        self.world
            .neighbours
            .write()
            .insert((ifindex, address), mac);
    }

    /// The cgroup that packets belong to unless their path says otherwise.
    pub fn root_cgroup(&self) -> &Arc<Cgroup> {
        &self.world.root_cgroup
    }

    /// Adds a cgroup below another. It lasts as long as somebody holds it, or until it is removed.
    ///
    /// # Errors
    /// EEXIST: the name is taken. EINVAL: an empty name, or one with a slash.
    pub fn add_cgroup(&self, parent: &Arc<Cgroup>, name: &str) -> Result<Arc<Cgroup>, Error> {
        let id = self.world.next_cgroup.fetch_add(1, Ordering::Relaxed);
        parent.add_child(id, name)
    }

    /// Takes a cgroup away; its links are detached, links stay as objects.
    ///
    /// # Errors
    /// EBUSY: there are cgroups below it, it is the root, or inside of a program run.
    pub fn remove_cgroup(&self, cgroup: &Arc<Cgroup>) -> Result<(), Error> {
        cgroup.end()
    }

    /// A socket that hears the frames of a device, or of all. It is closed with its last reference.
    ///
    /// # Errors
    /// ENODEV: no such device.
    pub fn open_socket(&self, ifindex: Option<u32>) -> Result<Arc<TapSocket>, Error> {
        if let Some(ifindex) = ifindex {
            self.device(ifindex).ok_or_else(|| no_device(ifindex))?;
        }
        let socket = TapSocket::new(ifindex);
        let mut sockets = self.world.sockets.write();
        sockets.retain(|socket| socket.strong_count() > 0);
        sockets.push(Arc::downgrade(&socket));
        self.world.has_sockets.store(true, Ordering::Relaxed);
        Ok(socket)
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

pub(crate) fn no_device(ifindex: u32) -> Error {
    Error::new(Errno::ENODEV, format!("no device with index {ifindex}"))
}
