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
//! name (`LIBBPF_PIN_BY_NAME`) are shared between lines, all others belong to one.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use ring3_objects::{Error, LinkObject, LoadOptions, LoadedObject, Object, System};
use ring3_uapi::Errno;

use crate::{CaptureWriter, Direction, Exit, Net, PacketPath};

mod ip;
mod objects;
mod packets;
mod parse;
mod show;
mod tc;
mod tcx;

use parse::{Words, bad, unknown};

type Result<T> = std::result::Result<T, Error>;

/// A script in progress.
pub struct Script<'a> {
    net: Net,
    folder: PathBuf,
    options: LoadOptions,
    files: BTreeMap<PathBuf, Object>,
    /// What lines loaded, alive to the end of the script with every program of its file.
    loaded: Vec<LoadedObject>,
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
        let mut words = Words::of(line);
        let Some(first) = words.next() else {
            return Ok(());
        };
        match first {
            "ip" => self.ip(&mut words),
            "tc" => self.tc(&mut words),
            "tcx" => self.tcx(&mut words),
            "net" => self.show(&mut words),
            "inject" | "send" => self.packets(first, &mut words),
            "capture" => self.capture(&mut words),
            _ => Err(unknown(first)),
        }
    }

    fn print(&mut self, text: &str) -> Result<()> {
        self.out
            .write_all(text.as_bytes())
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
