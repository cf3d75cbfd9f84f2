//! temporary: records fixtures/oracle/maps
#[path = "../../testkit/src/map_oracle/mod.rs"]
mod map_oracle;
fn main() {
    let dir = std::env::args().nth(1).unwrap();
    println!(
        "{:?}",
        map_oracle::kernel::record(std::path::Path::new(&dir))
    );
}
