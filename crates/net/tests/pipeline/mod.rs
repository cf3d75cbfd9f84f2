//! A capture from a seeded generator, and the pipeline it runs through: XDP, five classifiers at tcx that each parse headers and keep a table, a
//! filter of clsact that rewrites and redirects. Shared by the test of `net` and by `cargo xtask bench net`.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ring3_maps::Access;
use ring3_mprog::Anchor;
use ring3_net::{
    CaptureReader, CaptureWriter, CapturedPacket, Device, Direction, Exit, Net, PacketPath,
    clsact::FilterSpec,
};
use ring3_objects::{EngineKind, Error, LoadOptions, LoadedObject, Object, System};

/// The classifiers, in the order they are attached.
pub(crate) const CLASSIFIERS: [&str; 5] =
    ["by_flow", "by_sender", "by_service", "by_link", "by_length"];
/// Their tables.
pub(crate) const TABLES: [&str; 5] = ["flows", "senders", "services", "links", "lengths"];

/// Frames of some thousand flows: IPv4 and IPv6, TCP and UDP, a few ARP and some to the discard port, of 60 to 1514 bytes.
pub(crate) struct Traffic(u64);

impl Traffic {
    /// The same seed gives the same frames.
    pub(crate) fn new(seed: u64) -> Traffic {
        Traffic(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32 % limit
    }

    /// The next frame.
    pub(crate) fn frame(&mut self) -> Vec<u8> {
        const UDP: u8 = 17;
        const TCP: u8 = 6;
        let len = match self.below(10) {
            0..=4 => 60 + self.below(30),
            5..=7 => 200 + self.below(400),
            _ => 1400 + self.below(115),
        };
        let mut frame = vec![0u8; len as usize];
        let payload = self.below(256) as u8;
        frame.iter_mut().for_each(|byte| *byte = payload);
        frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9]);
        let flow = self.below(4000);
        let [.., high, low] = flow.to_be_bytes();
        let protocol = if flow.is_multiple_of(3) { UDP } else { TCP };
        let ports = match flow % 50 {
            7 => [0x90, high, 0, 9],
            service => [0x80 | high, low, 0, 80 + service as u8],
        };
        let network = len as usize - 14;
        match self.below(20) {
            0 => frame[12..14].copy_from_slice(&[8, 6]),
            1..=3 => {
                frame[12..14].copy_from_slice(&[0x86, 0xdd]);
                let header = &mut frame[14..54];
                header.fill(0);
                header[0] = 0x60;
                header[4..6].copy_from_slice(&((network - 40) as u16).to_be_bytes());
                header[6..8].copy_from_slice(&[protocol, 64]);
                header[8..10].copy_from_slice(&[0xfd, 0]);
                header[22..26].copy_from_slice(&[high, low, 0xfd, 1]);
                header[39] = low;
                if len >= 62 {
                    frame[54..58].copy_from_slice(&ports);
                }
            }
            _ => {
                frame[12..14].copy_from_slice(&[8, 0]);
                let header = &mut frame[14..34];
                header.fill(0);
                header[0] = 0x45;
                header[2..4].copy_from_slice(&(network as u16).to_be_bytes());
                header[8..10].copy_from_slice(&[64, protocol]);
                header[12..16].copy_from_slice(&[10, 1, high, low]);
                header[16..20].copy_from_slice(&[10, 2, 0, low]);
                let sum: u32 = header
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|word| u32::from(u16::from_be_bytes(*word)))
                    .sum();
                let folded = (sum & 0xffff) + (sum >> 16);
                header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
                frame[34..38].copy_from_slice(&ports);
            }
        }
        frame
    }
}

/// Writes a capture of `packets` frames, a microsecond apart.
pub(crate) fn write_capture(file: &Path, seed: u64, packets: u64) -> Result<(), Error> {
    let mut traffic = Traffic::new(seed);
    let mut writer = CaptureWriter::create(file)?;
    for number in 0..packets {
        writer.write(&CapturedPacket {
            time: Duration::from_micros(number),
            data: traffic.frame(),
        })?;
    }
    Ok(())
}

/// The frames of a capture.
pub(crate) fn read_capture(file: &Path) -> Result<Vec<Vec<u8>>, Error> {
    let mut reader = CaptureReader::open(file)?;
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet()? {
        frames.push(packet.data);
    }
    Ok(frames)
}

/// What left the pipeline: frame behind frame, with its length before it.
type Sent = Arc<Mutex<Vec<u8>>>;

/// The devices with their programs, and the path through them.
pub(crate) struct Pipeline {
    /// Where packets come in.
    pub(crate) device: Arc<Device>,
    /// The way through.
    pub(crate) path: PacketPath,
    loaded: LoadedObject,
    sent: Sent,
}

impl Pipeline {
    /// Loads `pipeline.o` for an engine and attaches its programs.
    pub(crate) fn new(object: &Path, engine: EngineKind) -> Result<Pipeline, Error> {
        /// Where the filter sends IPv4: its program says so.
        const OUT: u32 = 3;
        let system = System::new();
        ring3_net::register(&system);
        let net = Net::new(&system);
        let device = net.add_device("in")?;
        let out = net.add_device("out")?;
        assert_eq!(out.ifindex(), OUT);
        let options = LoadOptions {
            engine,
            ..LoadOptions::default()
        };
        let loaded = Object::open(object)?
            .load_in(&system, &options)
            .map_err(|error| Error::new(error.error.errno, error.to_string()))?;
        net.set_xdp(&device, Some(loaded.program("guard")?))?;
        let ingress = Direction::Ingress;
        for name in CLASSIFIERS {
            net.attach_tcx(
                &device,
                ingress,
                loaded.program(name)?,
                &Anchor::none(),
                None,
            )?;
        }
        let filter = FilterSpec {
            priority: None,
            handle: None,
            protocol: None,
            is_direct: true,
            classid: 0,
            label: "forward".to_owned(),
            actions: Vec::new(),
        };
        device
            .clsact(ingress)
            .add(loaded.program("forward")?, filter)?;
        let sent = Sent::default();
        let kept = Arc::clone(&sent);
        let path = PacketPath::new(&net).with_sink(Box::new(move |exit, _, frame| {
            if exit == Exit::Sent {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend((frame.len() as u32).to_ne_bytes());
                kept.extend_from_slice(frame);
            }
        }));
        Ok(Pipeline {
            device,
            path,
            loaded,
            sent,
        })
    }

    /// Runs frames through.
    pub(crate) fn run(&mut self, frames: &[Vec<u8>]) -> Result<(), Error> {
        for frame in frames {
            self.path.inject(&self.device, frame)?;
        }
        Ok(())
    }

    /// Forgets what was sent so far.
    pub(crate) fn clear_sent(&mut self) {
        self.sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// What was sent so far, as a pcap file's bytes.
    pub(crate) fn capture(&self) -> Result<Vec<u8>, Error> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut capture = Vec::new();
        let mut writer = CaptureWriter::new(&mut capture, "memory")?;
        let (mut rest, mut number) = (&sent[..], 0);
        while let Some((len, behind)) = rest.split_first_chunk::<4>() {
            let (frame, behind) = behind.split_at(u32::from_ne_bytes(*len) as usize);
            writer.write(&CapturedPacket {
                time: Duration::from_micros(number),
                data: frame.to_owned(),
            })?;
            (rest, number) = (behind, number + 1);
        }
        drop(writer);
        Ok(capture)
    }

    /// Entries of every table.
    pub(crate) fn tables(&self) -> Result<Vec<(&'static str, usize)>, Error> {
        let count = |name: &'static str| {
            let map = self.loaded.map_object(name)?.map();
            let mut next = vec![0; map.key_size() as usize];
            let mut key: Option<Vec<u8>> = None;
            let mut entries = 0;
            while map
                .sys_next_key(Access::ReadWrite, key.as_deref(), &mut next)
                .is_ok()
            {
                entries += 1;
                key = Some(next.clone());
            }
            Ok((name, entries))
        };
        TABLES.into_iter().map(count).collect()
    }
}
