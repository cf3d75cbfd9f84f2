//! Packets per second through XDP, five tcx programs that each parse headers and update a hash, and clsact, on one core.
//!
//! `cargo run --release -p ring3-net --example throughput -- XDP.o TC.o CAPTURE [PACKETS]`: the objects' first programs, the TC object loaded six
//! times.

use std::{path::Path, sync::Arc, time::Instant};

use ring3_mprog::Anchor;
use ring3_net::{CaptureReader, Direction, Net, PacketPath, clsact::FilterSpec};
use ring3_objects::{LoadOptions, LoadedObject, Object, Program, System};

fn load(
    system: &Arc<System>,
    path: &str,
) -> Result<(LoadedObject, Arc<Program>), Box<dyn std::error::Error>> {
    let loaded = Object::open(path)?.load_in(system, &LoadOptions::default())?;
    let program = loaded
        .programs()
        .next()
        .map(|(_, program)| Arc::clone(program));
    Ok((loaded, program.ok_or("no program")?))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, xdp, tc, capture, rest @ ..] = &args[..] else {
        return Err("usage: throughput XDP.o TC.o CAPTURE [PACKETS]".into());
    };
    let wanted: usize = rest
        .first()
        .map_or(Ok(1_000_000), |packets| packets.parse())?;
    let system = System::new();
    ring3_net::register(&system);
    let net = Net::new(&system);
    let eth = net.add_device("eth0")?;
    let mut keep = Vec::new();
    let (loaded, program) = load(&system, xdp)?;
    keep.push(loaded);
    net.set_xdp(&eth, Some(&program))?;
    for at in 0..6 {
        let (loaded, program) = load(&system, tc)?;
        keep.push(loaded);
        if at < 5 {
            net.attach_tcx(&eth, Direction::Ingress, &program, &Anchor::none(), None)?;
        } else {
            let spec = FilterSpec {
                priority: None,
                handle: None,
                protocol: None,
                is_direct: true,
                classid: 0,
                label: "filter".to_owned(),
                actions: Vec::new(),
            };
            eth.clsact(Direction::Ingress).add(&program, spec)?;
        }
    }
    let mut packets = Vec::new();
    let mut reader = CaptureReader::open(Path::new(capture))?;
    while let Some(packet) = reader.next_packet()? {
        packets.push(packet.data);
    }
    let mut path = PacketPath::new(&net);
    let begin = Instant::now();
    for packet in packets.iter().cycle().take(wanted) {
        path.inject(&eth, packet)?;
    }
    let spent = begin.elapsed();
    println!(
        "{wanted} packets in {:.3} s: {:.2} million per second, {:.0} ns each",
        spent.as_secs_f64(),
        wanted as f64 / spent.as_secs_f64() / 1e6,
        spent.as_nanos() as f64 / wanted as f64
    );
    for slot in eth.tcx(Direction::Ingress).slots().iter() {
        println!(
            "    {} ran {} times, stopped {}",
            slot.prog.name(),
            slot.counts.runs(),
            slot.counts.stops()
        );
    }
    for filter in eth.clsact(Direction::Ingress).filters().iter() {
        println!(
            "    filter {} ran {} times",
            filter.prog.name(),
            filter.counts.runs()
        );
    }
    for (name, value) in eth.stats().named().filter(|(_, value)| *value != 0) {
        println!("    {name} {value}");
    }
    Ok(())
}
