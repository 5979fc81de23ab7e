fn main() {
    let cache = std::path::PathBuf::from(std::env::args().nth(1).unwrap());
    let mut last = String::new();
    let r = husk::kernel::ensure(&cache, &mut |p| {
        let s = format!("{p:?}");
        if !s.starts_with("Compiling") || last.len() == 0 || s.contains("00,") {
            println!("{s}");
        }
        last = s;
    });
    println!("last {last}\n{r:#?}");
    if let Err(e) = r {
        println!("{e}");
    }
}
