//! Scripts: `ip`, `tc`, `tcx` and `net` lines executed in one process over the model of devices.
//!
//! | line | what it does |
//! |---|---|
//! | `ip link add NAME [mtu N] [type veth peer name PEER]` | adds a device, or a pair |
//! | `ip link del NAME` | takes it away |
//! | `ip link set dev NAME xdp obj FILE sec SEC`, `xdp off` | XDP |
//! | `ip route add [blackhole] PREFIX [via ADDR] [dev NAME] [metric N]` | a route of `bpf_fib_lookup` |
//! | `ip neigh add ADDR lladdr MAC dev NAME` | a neighbour |
//! | `tc qdisc add dev NAME clsact` | accepted: every device has it |
//! | `tc filter add dev NAME ingress\|egress [prio N] [protocol P] [handle H] bpf [da] obj FILE sec SEC [classid X:Y] [action ...] [name N]` | a filter |
//! | `tc filter show dev NAME ingress\|egress`, `tc filter del ... [prio N] [handle H]` | filters |
//! | `tcx attach dev NAME ingress\|egress obj FILE sec SEC [link] [first] [last] [before PROG] [after PROG] [revision N]` | tcx |
//! | `tcx detach dev NAME ingress\|egress PROG` | takes a program or its link off |
//! | `inject NAME pcap FILE`, `inject NAME hex DIGITS`, `send NAME ...` | packets in, packets out |
//! | `capture FILE` | packets sent from now on, as pcap |
//! | `net show [dev NAME]`, `net stats dev NAME` | who runs when; counters |
//!
//! `action` is `bpf obj FILE sec SEC` or one of `ok drop pipe continue reclassify`. A file is loaded once, so its programs share their maps.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use ring3_mprog::{Anchor, Entry};
use ring3_objects::{Error, LinkObject, LoadOptions, LoadedObject, Object, Program, System};
use ring3_uapi::Errno;

use crate::{
    CaptureReader, CaptureWriter, CapturedPacket, Device, Direction, Exit, Held, Net, PacketPath,
    Route, RouteKind,
    clsact::{FilterAction, FilterSpec, act},
};

mod parse;
mod show;

use parse::{
    Words, bad, parse_address, parse_classid, parse_hex, parse_mac, parse_protocol, unknown,
};

type Result<T> = std::result::Result<T, Error>;

/// A script in progress.
pub struct Script<'a> {
    net: Net,
    folder: PathBuf,
    options: LoadOptions,
    objects: BTreeMap<PathBuf, (Object, LoadedObject)>,
    links: Vec<Arc<LinkObject>>,
    path: PacketPath,
    sent: mpsc::Receiver<Vec<u8>>,
    capture: Option<CaptureWriter<BufWriter<File>>>,
    captured: u64,
    out: &'a mut dyn Write,
}

impl<'a> Script<'a> {
    /// A script over a fresh network; files are named relative to `folder`.
    pub fn new(
        system: &Arc<System>,
        options: &LoadOptions,
        folder: &Path,
        out: &'a mut dyn Write,
    ) -> Script<'a> {
        let net = Net::new(system);
        let (sender, sent) = mpsc::channel();
        let path = PacketPath::new(&net).with_sink(Box::new(move |exit, _, frame| {
            if exit == Exit::Sent {
                // The other end lives as long as the path.
                let _ = sender.send(frame.to_owned());
            }
        }));
        Script {
            net,
            folder: folder.to_owned(),
            options: LoadOptions {
                keep_going: true,
                ..options.clone()
            },
            objects: BTreeMap::new(),
            links: Vec::new(),
            path,
            sent,
            capture: None,
            captured: 0,
            out,
        }
    }

    /// The network as the script left it.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Executes a text of lines.
    ///
    /// # Errors
    /// The first line that fails; the message has its number.
    pub fn run(&mut self, text: &str) -> Result<()> {
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            self.line(line).map_err(|error| {
                Error::new(
                    error.errno,
                    format!("line {}: {}", number + 1, error.message),
                )
            })?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let mut words = Words(line.split_whitespace());
        let Some(first) = words.next() else {
            return Ok(());
        };
        match first {
            "ip" => self.ip(&mut words),
            "tc" => self.tc(&mut words),
            "tcx" => self.tcx(&mut words),
            "net" => self.show(&mut words),
            "inject" | "send" => self.packets(first == "send", &mut words),
            "capture" => {
                let file = self.folder.join(words.value("capture")?);
                self.capture = Some(CaptureWriter::create(&file)?);
                Ok(())
            }
            _ => Err(unknown(first)),
        }
    }

    fn print(&mut self, text: &str) -> Result<()> {
        self.out
            .write_all(text.as_bytes())
            .map_err(|error| Error::new(Errno::EIO, error.to_string()))
    }

    fn ip(&mut self, words: &mut Words<'_>) -> Result<()> {
        match (words.value("ip")?, words.value("ip")?) {
            ("link", "add") => self.link_add(words),
            ("link", "del") => {
                let device = self.net.device_by_name(words.value("del")?)?;
                self.net.remove_device(device.ifindex())
            }
            ("link", "set") => self.link_set(words),
            ("route", "add") => self.route_add(words),
            ("neigh", "add") => {
                let (_, address) = parse_address(words.value("add")?)?;
                words.expect("lladdr")?;
                let mac = parse_mac(words.value("lladdr")?)?;
                words.expect("dev")?;
                let device = self.net.device_by_name(words.value("dev")?)?;
                self.net.add_neighbour(device.ifindex(), address, mac);
                Ok(())
            }
            (object, verb) => Err(unknown(&format!("ip {object} {verb}"))),
        }
    }

    fn link_add(&mut self, words: &mut Words<'_>) -> Result<()> {
        let (mut name, mut mtu, mut peer) = (None, 1500, None);
        while let Some(word) = words.next() {
            match word {
                "mtu" => mtu = words.number("mtu")?,
                "type" => match words.value("type")? {
                    "veth" => {
                        words.expect("peer")?;
                        words.expect("name")?;
                        peer = Some(words.value("name")?);
                    }
                    "dummy" => {}
                    other => return Err(unknown(other)),
                },
                other if name.is_none() => name = Some(other),
                other => return Err(unknown(other)),
            }
        }
        let name = name.ok_or_else(|| bad("a device name is missing"))?;
        let add = |name: &str| {
            let next = self
                .net
                .devices()
                .last()
                .map_or(1, |device| device.ifindex() + 1);
            let [a, b, c, d] = next.to_be_bytes();
            self.net.add_device_with(name, mtu, [2, 0, a, b, c, d], 1)
        };
        let device = add(name)?;
        if let Some(peer) = peer {
            let peer = add(peer)?;
            self.net.join(&device, &peer);
        }
        Ok(())
    }

    fn link_set(&mut self, words: &mut Words<'_>) -> Result<()> {
        words.expect("dev")?;
        let device = self.net.device_by_name(words.value("dev")?)?;
        words.expect("xdp")?;
        match words.value("xdp")? {
            "off" => self.net.set_xdp(&device, None),
            "obj" => {
                let (prog, _) = self.object_program(words)?;
                self.net.set_xdp(&device, Some(&prog))
            }
            other => Err(unknown(other)),
        }
    }

    fn route_add(&mut self, words: &mut Words<'_>) -> Result<()> {
        let mut kind = RouteKind::Unicast;
        let mut prefix = words.value("add")?;
        for (word, named) in [
            ("blackhole", RouteKind::Blackhole),
            ("unreachable", RouteKind::Unreachable),
            ("prohibit", RouteKind::Prohibit),
        ] {
            if prefix == word {
                kind = named;
                prefix = words.value(word)?;
            }
        }
        let (address, bits) = match prefix.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (prefix, None),
        };
        let (is_ipv6, prefix) = parse_address(if address == "default" {
            "0.0.0.0"
        } else {
            address
        })?;
        let all = if is_ipv6 { 128 } else { 32 };
        let prefix_bits = match bits {
            Some(bits) => bits
                .parse()
                .map_err(|_| bad(format!("prefix bits '{bits}'")))?,
            None if address == "default" => 0,
            None => all,
        };
        let mut route = Route {
            is_ipv6,
            prefix,
            prefix_bits,
            kind,
            ifindex: 0,
            gateway: None,
            metric: 0,
        };
        while let Some(word) = words.next() {
            match word {
                "via" => route.gateway = Some(parse_address(words.value("via")?)?.1),
                "dev" => route.ifindex = self.net.device_by_name(words.value("dev")?)?.ifindex(),
                "metric" => route.metric = words.number("metric")?,
                other => return Err(unknown(other)),
            }
        }
        self.net.add_route(route)
    }

    /// The program of `FILE sec SEC`, what tc calls it.
    fn object_program(&mut self, words: &mut Words<'_>) -> Result<(Arc<Program>, String)> {
        let file = words.value("obj")?;
        words.expect("sec")?;
        let section = words.value("sec")?;
        let path = self.folder.join(file);
        if !self.objects.contains_key(&path) {
            let object = Object::open(&path)?;
            let loaded = object
                .load_in(self.net.system(), &self.options)
                .map_err(|error| Error::new(error.error.errno, error.to_string()))?;
            self.objects.insert(path.clone(), (object, loaded));
        }
        let (object, loaded) = &self.objects[&path];
        let spec = object
            .spec()
            .progs
            .iter()
            .find(|prog| prog.section == section);
        let Some(spec) = spec else {
            let sections: Vec<_> = object
                .spec()
                .progs
                .iter()
                .map(|prog| prog.section.as_str())
                .collect();
            let message = format!(
                "{file}: no section '{section}', there are: {}",
                sections.join(", ")
            );
            return Err(Error::new(Errno::ENOENT, message));
        };
        if let Some((_, error)) = loaded.rejected().find(|(name, _)| *name == spec.name) {
            return Err(Error::new(error.error.errno, error.to_string()));
        }
        let name = Path::new(file)
            .file_name()
            .map_or_else(|| file.into(), |name| name.to_string_lossy());
        Ok((
            Arc::clone(loaded.program(&spec.name)?),
            format!("{name}:[{section}]"),
        ))
    }

    fn tc(&mut self, words: &mut Words<'_>) -> Result<()> {
        match (words.value("tc")?, words.value("tc")?) {
            ("qdisc", "add" | "replace") => {
                words.expect("dev")?;
                self.net.device_by_name(words.value("dev")?)?;
                words.expect("clsact")
            }
            ("filter", verb) => {
                words.expect("dev")?;
                let device = self.net.device_by_name(words.value("dev")?)?;
                let direction = direction(words)?;
                match verb {
                    "add" => self.filter_add(&device, direction, words),
                    "show" => self.filter_show(&device, direction),
                    "del" => filter_del(&device, direction, words),
                    other => Err(unknown(other)),
                }
            }
            (object, verb) => Err(unknown(&format!("tc {object} {verb}"))),
        }
    }

    fn filter_add(
        &mut self,
        device: &Device,
        direction: Direction,
        words: &mut Words<'_>,
    ) -> Result<()> {
        let mut spec = FilterSpec {
            priority: None,
            handle: None,
            protocol: None,
            is_direct: false,
            classid: 0,
            label: String::new(),
            actions: Vec::new(),
        };
        let (mut prog, mut name) = (None, None);
        while let Some(word) = words.next() {
            match word {
                "prio" | "pref" => spec.priority = Some(words.number(word)?),
                "handle" => spec.handle = Some(words.number(word)?),
                "protocol" => spec.protocol = parse_protocol(words.value(word)?)?,
                "bpf" => {}
                "da" | "direct-action" => spec.is_direct = true,
                "obj" | "object-file" => prog = Some(self.object_program(words)?),
                "classid" | "flowid" => spec.classid = parse_classid(words.value(word)?)?,
                "name" => name = Some(words.value(word)?.to_owned()),
                "action" => {
                    let action = self.action(words)?;
                    spec.actions.push(action);
                }
                other => return Err(unknown(other)),
            }
        }
        let (prog, label) = prog.ok_or_else(|| bad("obj FILE sec SEC is missing"))?;
        spec.label = name.unwrap_or(label);
        device.clsact(direction).add(&prog, spec).map(|_| ())
    }

    fn action(&mut self, words: &mut Words<'_>) -> Result<FilterAction> {
        Ok(FilterAction::Fixed(match words.value("action")? {
            "ok" | "pass" => act::OK,
            "drop" | "shot" => act::SHOT,
            "pipe" => act::PIPE,
            "continue" => act::UNSPEC,
            "reclassify" => act::RECLASSIFY,
            "bpf" => {
                words.expect("obj")?;
                let (prog, _) = self.object_program(words)?;
                return Ok(FilterAction::Bpf {
                    prog,
                    default: act::PIPE,
                    counts: Arc::default(),
                });
            }
            other => return Err(unknown(other)),
        }))
    }

    fn filter_show(&mut self, device: &Device, direction: Direction) -> Result<()> {
        self.print(&show::filters(device, direction))
    }

    fn tcx(&mut self, words: &mut Words<'_>) -> Result<()> {
        let verb = words.value("tcx")?;
        words.expect("dev")?;
        let device = self.net.device_by_name(words.value("dev")?)?;
        let direction = direction(words)?;
        match verb {
            "attach" => {
                words.expect("obj")?;
                let (prog, _) = self.object_program(words)?;
                self.tcx_attach(&device, direction, &prog, words)
            }
            "detach" => {
                let entry = find(&device, direction, words.value("detach")?)?;
                match entry.link {
                    Some(id) => {
                        self.links.retain(|link| link.id() != id);
                        Ok(())
                    }
                    None => device.tcx(direction).detach(
                        Some(&entry.prog.0),
                        None,
                        &Anchor::none(),
                        None,
                    ),
                }
            }
            other => Err(unknown(other)),
        }
    }

    fn tcx_attach(
        &mut self,
        device: &Arc<Device>,
        direction: Direction,
        prog: &Arc<Program>,
        words: &mut Words<'_>,
    ) -> Result<()> {
        let (mut anchor, mut revision, mut is_link) = (Anchor::none(), None, false);
        while let Some(word) = words.next() {
            match word {
                "link" => is_link = true,
                "first" => anchor = Anchor::first(),
                "last" => anchor = Anchor::last(),
                "before" => anchor = Anchor::before(find(device, direction, words.value(word)?)?),
                "after" => anchor = Anchor::after(find(device, direction, words.value(word)?)?),
                "replace" => {
                    anchor = Anchor::replacing(find(device, direction, words.value(word)?)?)
                }
                "revision" => revision = Some(u64::from(words.number(word)?)),
                other => return Err(unknown(other)),
            }
        }
        if is_link {
            let link = self
                .net
                .link_tcx(device, direction, prog, &anchor, revision)?;
            self.links.push(link);
            Ok(())
        } else {
            self.net
                .attach_tcx(device, direction, prog, &anchor, revision)
        }
    }

    fn packets(&mut self, is_sent: bool, words: &mut Words<'_>) -> Result<()> {
        let device = self.net.device_by_name(words.value("inject")?)?;
        let mut frames = Vec::new();
        match words.value("inject")? {
            "pcap" => {
                let mut reader = CaptureReader::open(&self.folder.join(words.value("pcap")?))?;
                while let Some(packet) = reader.next_packet()? {
                    frames.push(packet.data);
                }
            }
            "hex" => frames.push(parse_hex(words.value("hex")?)?),
            other => return Err(unknown(other)),
        }
        for frame in &frames {
            if is_sent {
                self.path.send(&device, frame)?;
            } else {
                self.path.inject(&device, frame)?;
            }
            for data in self.sent.try_iter() {
                if let Some(capture) = &mut self.capture {
                    // Captures repeat to the byte: a microsecond a packet.
                    let time = Duration::from_micros(self.captured);
                    self.captured += 1;
                    capture.write(&CapturedPacket { time, data })?;
                }
            }
        }
        Ok(())
    }

    fn show(&mut self, words: &mut Words<'_>) -> Result<()> {
        let verb = words.value("net")?;
        let devices = match words.next() {
            Some("dev") => vec![self.net.device_by_name(words.value("dev")?)?],
            Some(other) => return Err(unknown(other)),
            None => self.net.devices(),
        };
        let text = match verb {
            "show" => show::hooks(&devices),
            "stats" => show::stats(&devices),
            other => return Err(unknown(other)),
        };
        self.print(&text)
    }
}

fn direction(words: &mut Words<'_>) -> Result<Direction> {
    match words.value("direction")? {
        "ingress" => Ok(Direction::Ingress),
        "egress" => Ok(Direction::Egress),
        other => Err(bad(format!("'{other}': expected ingress or egress"))),
    }
}

fn filter_del(device: &Device, direction: Direction, words: &mut Words<'_>) -> Result<()> {
    let (mut priority, mut handle) = (None, None);
    while let Some(word) = words.next() {
        match word {
            "prio" | "pref" => priority = Some(words.number(word)?),
            "handle" => handle = Some(words.number(word)?),
            "bpf" => {}
            other => return Err(unknown(other)),
        }
    }
    match device.clsact(direction).remove(priority, handle) {
        0 => Err(Error::new(Errno::ENOENT, "no such filter")),
        _ => Ok(()),
    }
}

/// The entry of a hook whose program has this name.
fn find(device: &Device, direction: Direction, name: &str) -> Result<Entry<Held, u32>> {
    let slots = device.tcx(direction).slots();
    let slot = slots.iter().find(|slot| slot.prog.name() == name);
    let slot = slot.ok_or_else(|| {
        let message = format!(
            "no program '{name}' at tcx/{} of {}",
            direction.name(),
            device.name()
        );
        Error::new(Errno::ENOENT, message)
    })?;
    Ok(Entry {
        prog: Held(Arc::clone(&slot.prog)),
        link: slot.link,
    })
}
