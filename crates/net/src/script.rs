//! Scripts: `ip`, `tc`, `tcx` and `net` lines executed in one process over the model of devices.
//!
//! | line | what it does |
//! |---|---|
//! | `ip link add NAME [index N] [address MAC] [mtu N] [type veth peer name PEER ...]` | adds a device, or a pair |
//! | `ip link del NAME`, `ip link set NAME up` | takes it away; devices are up from the start |
//! | `ip link set dev NAME xdp obj FILE sec SEC`, `xdp off` | XDP |
//! | `ip addr add ADDR/BITS dev NAME` | an address, with the route to its neighbours |
//! | `ip route add [blackhole\|unreachable\|prohibit] PREFIX [via ADDR] [dev NAME] [metric N]` | a route of `bpf_fib_lookup` |
//! | `ip neigh add ADDR lladdr MAC dev NAME` | a neighbour |
//! | `tc qdisc add dev NAME clsact` | accepted: every device has it |
//! | `tc filter add dev NAME ingress\|egress [prio N] [protocol P] [handle H] bpf [da] obj FILE sec SEC [classid X:Y] [action ...] [name N]` | a filter |
//! | `tc [-s] filter show dev NAME ingress\|egress [prio N]`, `tc filter del ... [prio N] [handle H]` | filters; with `-s` what each did |
//! | `tcx attach dev NAME ingress\|egress obj FILE sec SEC [link] [first] [last] [before PROG] [after PROG] [replace PROG] [revision N]` | tcx |
//! | `tcx detach dev NAME ingress\|egress PROG` | takes a program or its link off |
//! | `inject NAME pcap FILE`, `inject NAME hex DIGITS`, `send NAME ...` | packets in, packets out |
//! | `capture FILE` | packets sent from now on, as pcap |
//! | `net show [dev NAME]`, `net stats [dev NAME]` | who runs when and where chains stopped; counters |
//!
//! `action` is `bpf obj FILE sec SEC [DEFAULT]` or one of `ok drop pipe continue reclassify`. Every line that names a file loads it anew; maps pinned by
//! name (`LIBBPF_PIN_BY_NAME`) are shared between lines, all others belong to one. What a line loaded goes when its program is at no hook any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use ring3_objects::{Error, LinkObject, LoadOptions, LoadedObject, Object, System};
use ring3_runtime::ProgObject;
use ring3_uapi::Errno;

use crate::{CaptureWriter, Direction, Exit, Net, PacketPath, clsact::FilterAction};

mod ip;
mod objects;
mod packets;
mod parse;
mod show;
mod tc;
mod tcx;

use parse::{Words, bad, unknown};

type Result<T> = std::result::Result<T, Error>;

/// A script in progress: what its lines made, and the network they made it in.
pub struct Script {
    net: Net,
    folder: PathBuf,
    options: LoadOptions,
    files: BTreeMap<PathBuf, Object>,
    loaded: Vec<Loaded>,
    links: Vec<Arc<LinkObject>>,
    path: PacketPath,
    sent: mpsc::Receiver<Vec<u8>>,
    capture: Option<CaptureWriter<BufWriter<File>>>,
    captured: u64,
    /// What the line in progress shows.
    text: String,
}

/// An object file that a line loaded: alive, with every program of it, as long as one is at a hook.
struct Loaded {
    /// Program that the line names.
    prog_id: u32,
    _object: LoadedObject,
}

impl Script {
    /// A script over a fresh network; files are named relative to `folder`.
    pub fn new(system: &Arc<System>, options: &LoadOptions, folder: &Path) -> Script {
        Script::over(&Net::new(system), options, folder)
    }

    /// A script over a network that others may use as well.
    pub fn over(net: &Net, options: &LoadOptions, folder: &Path) -> Script {
        let (sender, sent) = mpsc::channel();
        let path = PacketPath::new(net).with_sink(Box::new(move |exit, _, frame| {
            if exit == Exit::Sent {
                // The other end lives as long as the path.
                let _ = sender.send(frame.to_owned());
            }
        }));
        Script {
            net: net.clone(),
            folder: folder.to_owned(),
            options: LoadOptions {
                keep_going: true,
                shared_maps: Some(options.shared_maps.clone().unwrap_or_default()),
                ..options.clone()
            },
            files: BTreeMap::new(),
            loaded: Vec::new(),
            links: Vec::new(),
            path,
            sent,
            capture: None,
            captured: 0,
            text: String::new(),
        }
    }

    /// The network as the script left it.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Executes a text of lines; what they show goes to `out`.
    ///
    /// # Errors
    /// The first line that fails; the message has its number.
    pub fn run(&mut self, text: &str, out: &mut dyn Write) -> Result<()> {
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let result = self.line(Words::of(line));
            self.put_out(out)?;
            result.map_err(|error| {
                Error::new(
                    error.errno,
                    format!("line {}: {}", number + 1, error.message),
                )
            })?;
        }
        Ok(())
    }

    /// Executes one line, given by its words; files are named relative to `folder` and read anew.
    ///
    /// # Errors
    /// What the line's words refuse.
    pub fn run_words(&mut self, words: &[&str], folder: &Path, out: &mut dyn Write) -> Result<()> {
        folder.clone_into(&mut self.folder);
        self.files.clear();
        let result = self.line(Words::from_vec(words.to_vec()));
        self.put_out(out)?;
        result
    }

    fn line(&mut self, mut words: Words<'_>) -> Result<()> {
        let Some(first) = words.next() else {
            return Ok(());
        };
        let result = match first {
            "ip" => self.ip(&mut words),
            "tc" => self.tc(&mut words),
            "tcx" => self.tcx(&mut words),
            "net" => self.show(&mut words),
            "inject" | "send" => self.packets(first, &mut words),
            "capture" => self.capture(&mut words),
            _ => Err(unknown(first)),
        };
        self.release_detached();
        result
    }

    /// Lets go of what lines loaded or linked and is at no hook any more.
    fn release_detached(&mut self) {
        self.links.retain(|link| link.is_attached());
        let mut attached = BTreeSet::new();
        for device in self.net.devices() {
            attached.extend(device.xdp().map(|slot| slot.prog.id()));
            for direction in [Direction::Ingress, Direction::Egress] {
                let slots = device.tcx(direction).slots();
                attached.extend(slots.iter().map(|slot| slot.prog.id()));
                for filter in device.clsact(direction).filters().iter() {
                    attached.insert(filter.prog.id());
                    attached.extend(filter.actions.iter().filter_map(|action| match action {
                        FilterAction::Bpf { prog, .. } => Some(prog.id()),
                        FilterAction::Fixed(_) => None,
                    }));
                }
            }
        }
        self.loaded
            .retain(|loaded| attached.contains(&loaded.prog_id));
    }

    fn print(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn put_out(&mut self, out: &mut dyn Write) -> Result<()> {
        let text = std::mem::take(&mut self.text);
        out.write_all(text.as_bytes())
            .map_err(|error| Error::new(Errno::EIO, error.to_string()))
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
        self.print(&text);
        Ok(())
    }
}

fn direction(words: &mut Words<'_>) -> Result<Direction> {
    match words.value("direction")? {
        "ingress" => Ok(Direction::Ingress),
        "egress" => Ok(Direction::Egress),
        other => Err(bad(format!("'{other}': expected ingress or egress"))),
    }
}
