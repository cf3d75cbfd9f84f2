//! Packets through a device with an XDP program and a classifier: the file holds what went in and came out of each.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use pcap_file::pcapng::{
    Block, PcapNgReader,
    blocks::{
        enhanced_packet::EnhancedPacketOption, interface_description::InterfaceDescriptionOption,
    },
};
use ring3::{
    LoadOptions, LoadedObject, System,
    btf::Btf,
    mprog::Anchor,
    net::{Direction, Exit, Net, PacketPath},
    objects::Object,
    tracing::Tracing,
};
use ring3_example_snoop::Snooper;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(path)
}

fn load(system: &Arc<System>, path: &str) -> LoadedObject {
    let object = Object::open(fixture(path)).unwrap();
    object.load_in(system, &LoadOptions::default()).unwrap()
}

/// A packet of the file: interface, bytes, bytes on the wire, comment.
type Written = (String, Vec<u8>, u32, Option<String>);

fn read(file: &[u8]) -> Vec<Written> {
    let mut reader = PcapNgReader::new(file).unwrap();
    let (mut interfaces, mut written) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(interface) => {
                interfaces.extend(interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                }));
            }
            Block::EnhancedPacket(packet) => {
                let comment = packet.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::Comment(text) => Some(text.to_string()),
                    _ => None,
                });
                let interface = interfaces[packet.interface_id as usize].clone();
                let bytes = packet.data.to_vec();
                written.push((interface, bytes, packet.original_len, comment));
            }
            _ => {}
        }
    }
    written
}

/// An IPv4 packet to 127.0.0.1 behind an Ethernet header.
fn packet() -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[12] = 8;
    frame[14] = 0x45;
    frame[30..34].copy_from_slice(&[127, 0, 0, 1]);
    frame[59] = 0xee;
    frame
}

fn watched_run(system: &Arc<System>) {
    ring3::net::register(system);
    let tracing = Arc::new(Tracing::new(system));
    let (xdp, tc) = (
        load(system, "elf/xdp/push_header.o"),
        load(system, "elf/tc/rewrite.o"),
    );
    let (xdp, tc) = (
        xdp.program("push_header").unwrap(),
        tc.program("rewrite").unwrap(),
    );
    let net = Net::new(system);
    let eth = net.add_device("eth0").unwrap();
    net.attach_tcx(&eth, Direction::Ingress, tc, &Anchor::none(), None)
        .unwrap();
    let out = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&out);
    let mut path = PacketPath::new(&net).with_sink(Box::new(move |exit, _, frame| {
        assert_eq!(exit, Exit::Stack);
        to.lock().unwrap().push(frame.to_vec());
    }));
    let mut snooper = Snooper::new(&tracing);
    snooper.watch(xdp).unwrap();
    snooper.watch(tc).unwrap();
    // Once through the classifier alone, once through both.
    path.inject(&eth, &packet()).unwrap();
    let _xdp_link = net.link_xdp(&eth, xdp).unwrap();
    path.inject(&eth, &packet()).unwrap();
    let mut file = Vec::new();
    snooper.write(&mut file).unwrap();
    drop(snooper);
    path.inject(&eth, &packet()).unwrap();
    let came_out = std::mem::take(&mut *out.lock().unwrap());
    let [rewritten, pushed, unwatched] = &came_out[..] else {
        panic!("{} packets came out", came_out.len())
    };
    assert_eq!((pushed, pushed.len()), (unwatched, 68));
    assert_eq!(rewritten[30..34], [127, 0, 0, 2]);
    // The frame's type stays IPv4, so the classifier rewrites it as well.
    let mut tagged = packet();
    tagged.splice(14..14, 0x1122_3344_5566_7788_u64.to_le_bytes());
    let comment = |text: &str| Some(text.to_owned());
    let name = str::to_owned;
    let expected: Vec<Written> = vec![
        (name("rewrite in"), packet(), 60, None),
        (
            name("rewrite out"),
            rewritten.clone(),
            60,
            comment("returned 0 (TC_ACT_OK)"),
        ),
        (name("push_header in"), packet(), 60, None),
        (
            name("push_header out"),
            tagged.clone(),
            68,
            comment("returned 2 (XDP_PASS)"),
        ),
        (name("rewrite in"), tagged, 68, None),
        (
            name("rewrite out"),
            pushed.clone(),
            68,
            comment("returned 0 (TC_ACT_OK)"),
        ),
    ];
    assert_eq!(read(&file), expected);
}

#[test]
fn the_file_holds_packets_of_both_sides_with_return_values() {
    let system = System::new();
    let btf = std::fs::read(fixture("btf/vmlinux-6.18.btf")).unwrap();
    system.set_kernel_btf(Btf::parse(&btf).unwrap());
    watched_run(&system);
}

#[test]
fn no_types_of_a_kernel_are_needed() {
    watched_run(&System::new());
}
