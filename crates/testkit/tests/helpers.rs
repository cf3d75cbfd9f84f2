//! What helpers answer, on both engines, beside what the reference kernel answered.
#![cfg(feature = "engines")]

use std::sync::Arc;

use ring3::{
    EngineKind, LoadOptions, LoadedObject, Program, System, TestRun, maps::Access, objects::Object,
};
use ring3_testkit::{
    fixture::{fixtures_dir, kernel_btf},
    helper_oracle::{Input, PAUSE, USER_MEMORY, input, objects, out_lines, out_map, prog_line},
};

fn run(program: &Program, user: &[u8; 16]) -> Result<u32, String> {
    let run = match input(program.prog_type(), user) {
        Input::Packet(data_in) => TestRun {
            data_in,
            repeat: 1,
            ..TestRun::default()
        },
        Input::Ctx(ctx_in) => TestRun {
            ctx_in,
            ..TestRun::default()
        },
    };
    let result = program.test_run_with(&run);
    result
        .map(|result| result.retval)
        .map_err(|error| error.to_string())
}

/// The system, which test runs need, and the object in it.
fn load(object: &Object, engine: EngineKind) -> (Arc<System>, LoadedObject) {
    let system = ring3::system();
    system.set_kernel_btf(kernel_btf("6.18").unwrap());
    let options = LoadOptions {
        engine,
        keep_going: true,
        ..LoadOptions::default()
    };
    let loaded = object.load_in(&system, &options).unwrap();
    (system, loaded)
}

#[test]
fn helpers_answer_as_the_kernels() {
    let user = Box::new(USER_MEMORY);
    let mut wrong = Vec::new();
    for fixture in objects().unwrap() {
        let stem = fixture.name.trim_start_matches("helpers/");
        let path = fixtures_dir().join(format!("oracle/helpers/{stem}.txt"));
        let recorded = std::fs::read_to_string(&path).unwrap();
        let recorded: Vec<&str> = recorded.lines().skip(1).collect();
        let object = Object::open(&fixture.path).unwrap();
        for engine in [EngineKind::Jit, EngineKind::Interp] {
            let (_system, loaded) = load(&object, engine);
            let mut lines = Vec::new();
            for prog in &object.spec().progs {
                let answer = match loaded.program(&prog.name) {
                    Ok(program) => run(program, &user),
                    Err(error) => Err(error.to_string()),
                };
                lines.push(prog_line(&prog.name, answer));
                std::thread::sleep(PAUSE);
            }
            if let Some(at) = out_map(object.spec()) {
                let (_, map) = loaded.maps().nth(at).unwrap();
                let mut bss = vec![0; map.map().sys_value_bytes()];
                map.map()
                    .sys_lookup(Access::ReadOnly, &[0; 4], &mut bss, 0)
                    .unwrap();
                lines.extend(out_lines(object.spec().btf.as_ref().unwrap(), &bss));
            }
            assert_eq!(lines.len(), recorded.len(), "{stem}: answers");
            for (ours, kernel) in lines.iter().zip(&recorded) {
                if ours != kernel {
                    wrong.push(format!(
                        "{stem} {engine:?}\n  kernel {kernel}\n  ring3  {ours}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
