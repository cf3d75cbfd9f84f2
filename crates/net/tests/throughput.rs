//! A capture through XDP, five classifiers and clsact: both engines send the same packets and count the same. `cargo xtask bench net` measures it.

use std::path::Path;

use ring3_objects::EngineKind;

mod pipeline;

use pipeline::{Pipeline, read_capture, write_capture};

#[test]
fn both_engines_send_the_same_capture_and_count_the_same() {
    const PACKETS: usize = 10_000;
    let file = std::env::temp_dir().join(format!("ring3-traffic-{}.pcap", std::process::id()));
    write_capture(&file, 1, PACKETS as u64).unwrap();
    let frames = read_capture(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(frames.len(), PACKETS);
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/elf/net/pipeline.o");
    let run = |engine| {
        let mut pipeline = Pipeline::new(&object, engine).unwrap();
        pipeline.run(&frames[..PACKETS / 2]).unwrap();
        pipeline.run(&frames[PACKETS / 2..]).unwrap();
        let capture = pipeline.capture().unwrap();
        pipeline.clear_sent();
        let stats = pipeline.device.stats();
        (capture, pipeline.tables().unwrap(), stats)
    };
    let (sent, tables, stats) = run(EngineKind::Jit);
    let (sent_interpreted, tables_interpreted, stats_interpreted) = run(EngineKind::Interp);
    assert!(sent == sent_interpreted, "other packets were sent");
    assert_eq!(tables, tables_interpreted);
    assert_eq!(stats, stats_interpreted);
    // Each packet took one of three ways.
    assert_eq!(stats.rx_packets, PACKETS as u64);
    assert_eq!(
        stats.xdp_drop + stats.tc_redirect + stats.to_stack,
        PACKETS as u64
    );
    assert!(stats.xdp_drop > 50 && stats.to_stack > 500, "{stats:?}");
    assert!(stats.tc_redirect > PACKETS as u64 / 2, "{stats:?}");
    for (name, entries) in tables {
        assert!(entries > 40, "{name}: {entries} entries");
    }
}
