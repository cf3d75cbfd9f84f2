//! A BPF program from object file to result: open, load, run over a packet, look at a map.
//!
//! `cargo run -p ring3 --example test_a_program -- fixtures/elf/xdp/flows.o`

use ring3::Object;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("usage: test_a_program FILE.o")?;
    let object = Object::open(path)?.load()?;
    let mut packet = [0u8; 64];
    packet[12..14].copy_from_slice(&[0x08, 0x00]); // IPv4
    packet[14] = 0x45; // version 4, header of 5 words
    packet[23] = 6; // TCP
    let result = object.program("count_flows")?.test_run(&packet)?;
    println!("returned {}", result.retval);
    println!(
        "TCP packets: {:?}",
        object.map::<u32, u64>("protocols")?.get(&6)
    );
    Ok(())
}
