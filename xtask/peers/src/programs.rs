//! The bench programs: their objects, the packet they run over, and calling one of ours without anything around it.

use std::{hint::black_box, sync::Arc};

use ring3::{
    Program,
    helpers::packet::{NetDevice, PacketProgram, XdpBuff},
    objects::Object,
    runtime::{ProgObject, run_in_section},
};
use ring3_sync::rcu;

use crate::Outcome;

/// The program that does nothing.
pub(crate) const EMPTY: &str = "empty";
/// As `PACKET_BYTES` of the sources.
const PACKET_BYTES: usize = 1500;

/// Programs that call nothing outside of themselves.
pub(crate) fn pure() -> Outcome<Object> {
    Ok(Object::parse(include_bytes!("../programs/pure.o"), "pure")?)
}

/// Programs of map operations.
pub(crate) fn maps() -> Outcome<Object> {
    Ok(Object::parse(include_bytes!("../programs/maps.o"), "maps")?)
}

/// The programs of `bench helpers`.
pub(crate) fn helpers() -> Outcome<Object> {
    Ok(Object::parse(
        include_bytes!("../programs/helpers.o"),
        "helpers",
    )?)
}

/// Text with numbers and quotes; at every 64 bytes an Ethernet header, some with VLAN, most IPv4.
pub(crate) fn packet() -> Vec<u8> {
    const TEXT: &[u8] = b"The quick \"brown fox\" of 1987 jumps over 13 lazy dogs; ";
    let mut packet: Vec<u8> = TEXT.iter().copied().cycle().take(PACKET_BYTES).collect();
    for (number, head) in packet.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let at = if number % 3 == 0 {
            head[12..18].copy_from_slice(&[0x81, 0, 0, 7, 8, 0]);
            18
        } else {
            head[12..14].copy_from_slice(&[8, 0]);
            14
        };
        head[at] = 0x45 + u8::from(number % 5 == 0);
        head[at + 9] = if number % 2 == 0 { 6 } else { 17 };
    }
    packet
}

/// A loaded program with an XDP frame of the packet.
pub(crate) struct Ours {
    program: Arc<Program>,
    frame: Box<XdpBuff>,
}

impl Ours {
    pub(crate) fn new(program: &Arc<Program>, packet: &[u8]) -> Outcome<Ours> {
        let device = NetDevice::new(1, "lo", 65536);
        Ok(Ours {
            program: Arc::clone(program),
            frame: XdpBuff::received(packet, &device, 0)?,
        })
    }

    /// A function that runs the program once, its read section included.
    pub(crate) fn run(&mut self) -> Outcome<impl FnMut() -> u32 + '_> {
        let program = PacketProgram::over(&*self.program)?;
        let frame = &mut self.frame;
        Ok(move || program.run(frame))
    }

    /// A function that runs the program `times` times inside one read section, as a hook with several programs does.
    pub(crate) fn run_in_section(&mut self, times: usize) -> impl FnMut() -> u32 + '_ {
        let (entry, ctx) = (self.program.entry(), self.frame.program_ptr());
        move || {
            let _section = rcu::read();
            let mut result = 0;
            for _ in 0..times {
                // SAFETY: 1. the program is borrowed and takes an xdp_buff, which the frame is, borrowed as long; 2. a section is active.
                result = black_box(unsafe { run_in_section(&entry, ctx) as u32 });
            }
            result
        }
    }
}
