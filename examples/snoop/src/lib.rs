//! A snooper: what goes into XDP and tc programs and what comes out, as a pcapng file.
//!
//! [`Snooper::watch`] attaches the programs of `bpf/snoop.bpf.c` to the entry and exit of a loaded program; [`Snooper::write`] writes what was seen
//! since, in order.

use std::{
    borrow::Cow,
    error::Error,
    io::Write,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pcap_file::{
    DataLink,
    pcapng::{
        PcapNgBlock, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};
use ring3::{
    LoadOptions, Program,
    helpers::{PerfRecord, PerfSink},
    maps::PerfEventArray,
    net::action_name,
    objects::{AttachTo, LinkObject, Object},
    tracing::Tracing,
    uapi::ProgType,
};

/// `bpf/snoop.bpf.c`, compiled.
const SNOOP: &[u8] = include_bytes!("../bpf/snoop.o");
/// Nanoseconds, as a power of ten.
const NANOSECONDS: u8 = 9;

/// A packet at one side of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The program, numbered as [`Snooper::watch`] numbered it.
    pub program: usize,
    /// What it returned; `None` at its entry.
    pub retval: Option<i32>,
    /// The device.
    pub ifindex: u32,
    /// Bytes on the wire.
    pub len: u32,
    /// The bytes that were captured.
    pub packet: Vec<u8>,
    /// When.
    pub time: SystemTime,
}

struct Watched {
    name: String,
    prog_type: ProgType,
    _links: Vec<Arc<LinkObject>>,
}

/// Programs that are watched, and what was seen of them.
pub struct Snooper {
    tracing: Arc<Tracing>,
    watched: Vec<Watched>,
    sender: Sender<Seen>,
    seen: Receiver<Seen>,
}

impl Snooper {
    /// Watches nothing yet.
    pub fn new(tracing: &Arc<Tracing>) -> Snooper {
        let (sender, seen) = channel();
        Snooper {
            tracing: Arc::clone(tracing),
            watched: Vec::new(),
            sender,
            seen,
        }
    }

    /// Watches an XDP program or a classifier from now on; its number.
    ///
    /// # Errors
    /// The program has no BTF, is of another type, or may not be traced.
    pub fn watch(&mut self, prog: &Arc<Program>) -> Result<usize, Box<dyn Error>> {
        let kind = match prog.attr().prog_type {
            ProgType::Xdp => "xdp",
            ProgType::SchedCls => "tc",
            other => return Err(format!("program '{}' is of type {other}", prog.name()).into()),
        };
        // The main function is the first one.
        let main = prog.verified().subprogs[0].name.clone();
        let options = LoadOptions {
            programs: Some(vec![format!("{kind}_in"), format!("{kind}_out")]),
            attach_to: Some(AttachTo {
                program: Arc::clone(prog),
                function: Some(main),
            }),
            ..LoadOptions::default()
        };
        let loaded = Object::parse(SNOOP, "snoop")?.load_in(self.tracing.system(), &options)?;
        let events = loaded.map_object("packets")?.map();
        let number = self.watched.len();
        for cpu in 0..events.max_entries() {
            let sender = self.sender.clone();
            let deliver = Box::new(move |record: &PerfRecord<'_>| {
                if let Some(seen) = parse(number, record) {
                    // The snooper may be gone; then nobody wants it.
                    let _ = sender.send(seen);
                }
            });
            let sink = Arc::new(PerfSink::new(Some(cpu), deliver));
            events
                .downcast::<PerfEventArray>()
                .ok_or("'packets' is no perf event array")?
                .set(cpu, sink)?;
        }
        let links = loaded
            .programs()
            .map(|(_, program)| self.tracing.link(program, 0))
            .collect::<Result<_, _>>()?;
        self.watched.push(Watched {
            name: prog.name().to_owned(),
            prog_type: prog.attr().prog_type,
            _links: links,
        });
        Ok(number)
    }

    /// What was seen since it was last asked, in order.
    pub fn take(&self) -> Vec<Seen> {
        self.seen.try_iter().collect()
    }

    /// Writes what was seen as a pcapng file: interfaces `NAME in` and `NAME out` for each program.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, to: impl Write) -> Result<(), Box<dyn Error>> {
        let mut writer = PcapNgWriter::new(to)?;
        for watched in &self.watched {
            for side in ["in", "out"] {
                let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
                let name = format!("{} {side}", watched.name);
                interface.options = vec![
                    InterfaceDescriptionOption::IfName(name.into()),
                    InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                ];
                writer.write_block(&interface.into_block())?;
            }
        }
        for seen in self.take() {
            let prog_type = self.watched[seen.program].prog_type;
            let comment = seen.retval.map(|retval| {
                let name = action_name(prog_type, retval as u32).unwrap_or("no action");
                EnhancedPacketOption::Comment(format!("returned {retval} ({name})").into())
            });
            let packet = EnhancedPacketBlock {
                interface_id: 2 * seen.program as u32 + u32::from(seen.retval.is_some()),
                timestamp: seen
                    .time
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or(Duration::ZERO),
                original_len: seen.len,
                data: Cow::Borrowed(&seen.packet),
                options: comment.into_iter().collect(),
            };
            writer.write_block(&packet.into_block())?;
        }
        Ok(())
    }
}

/// `struct seen` of the program, then the packet.
fn parse(program: usize, record: &PerfRecord<'_>) -> Option<Seen> {
    let (words, _) = record.data.as_chunks::<4>();
    let &[_, is_exit, retval, ifindex, len] = words else {
        return None;
    };
    let [is_exit, retval, ifindex, len] = [is_exit, retval, ifindex, len].map(u32::from_ne_bytes);
    Some(Seen {
        program,
        retval: (is_exit != 0).then_some(retval as i32),
        ifindex,
        len,
        packet: record.packet.to_vec(),
        time: SystemTime::now(),
    })
}
