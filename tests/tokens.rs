//! How far the estimate of tokens may be off, against real tokenizers and texts of many kinds.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by failing")]

use cirque::protocol::{Dialect, prompt, request, tokens};
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;

/// What people write.
const LANGUAGES: [(&str, &str); 14] = [
    (
        "english",
        "Please summarise the attached contract and list every obligation of the supplier, \
         including deadlines, penalties and notice periods. Nevertheless, responsibilities \
         regarding confidentiality remain unaffected by termination of this agreement.",
    ),
    (
        "german",
        "Bitte fassen Sie den beigefügten Vertrag zusammen und nennen Sie alle Verpflichtungen des \
         Lieferanten, einschließlich Fristen, Vertragsstrafen und Kündigungsfristen. Die \
         Geschäftsführung übernimmt keine Gewährleistung. Donaudampfschifffahrtsgesellschaft.",
    ),
    (
        "french",
        "Veuillez résumer le contrat ci-joint et énumérer toutes les obligations du fournisseur, y \
         compris les délais, les pénalités et les préavis. L'été dernier, nous sommes allés à la \
         plage où les enfants ont joué jusqu'à la tombée de la nuit.",
    ),
    (
        "spanish",
        "Resuma el contrato adjunto y enumere todas las obligaciones del proveedor, incluidos los \
         plazos, las sanciones y los períodos de preaviso. ¿Cuándo podremos volver a vernos?",
    ),
    (
        "polish",
        "Proszę streścić załączoną umowę i wymienić wszystkie zobowiązania dostawcy, w tym \
         terminy, kary umowne i okresy wypowiedzenia. Zażółć gęślą jaźń.",
    ),
    (
        "russian",
        "Пожалуйста, кратко изложите прилагаемый договор и перечислите все обязательства \
         поставщика, включая сроки, штрафы и сроки уведомления.",
    ),
    (
        "greek",
        "Παρακαλώ συνοψίστε τη συνημμένη σύμβαση και απαριθμήστε όλες τις υποχρεώσεις του \
         προμηθευτή, συμπεριλαμβανομένων των προθεσμιών.",
    ),
    (
        "hebrew",
        "אנא סכמו את החוזה המצורף ורשמו את כל התחייבויות הספק, כולל מועדים, קנסות והודעה מוקדמת.",
    ),
    (
        "arabic",
        "يرجى تلخيص العقد المرفق وذكر جميع التزامات المورد، بما في ذلك المواعيد النهائية والغرامات.",
    ),
    (
        "chinese",
        "请总结所附合同，并列出供应商的所有义务，包括截止日期、罚款和通知期限。人工智能正在改变世界。",
    ),
    (
        "japanese",
        "添付の契約書を要約し、期限、違約金、通知期間を含むサプライヤーのすべての義務を列挙してください。",
    ),
    (
        "korean",
        "첨부된 계약서를 요약하고 기한, 위약금 및 통지 기간을 포함한 공급업체의 모든 의무를 나열해 주십시오.",
    ),
    ("hindi", "कृपया संलग्न अनुबंध का सारांश दें और आपूर्तिकर्ता के सभी दायित्वों की सूची बनाएं।"),
    ("emoji", "Great job! 🎉🚀 Let's go 👍🏽 ❤️ 😂😂 see you 👨‍👩‍👧‍👦 tomorrow 🌍✨"),
];

/// What programs write.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = [
        "README.md",
        "conf/gateway.full.yaml",
        "src/proxy/relay.rs",
        "tests/interop/origin.py",
        "tests/golden/wire/chat_response.json",
        "tests/golden/wire/models_openrouter.json",
    ];
    let read = |name: &str| (name.to_owned(), std::fs::read_to_string(root.join(name)).unwrap());
    let mut files: Vec<_> = names.into_iter().map(read).collect();
    let (mut table, mut hashes, mut state) = (String::new(), String::new(), 1_u64);
    for line in 0..80 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        writeln!(table, "{line},2026-11-25,{}.{},customer {line},EUR", state >> 54, state & 63)
            .unwrap();
        writeln!(hashes, "{state:016x}{:016x}", state.rotate_left(17) ^ 0x5bd1_e995_9d1b_54a5)
            .unwrap();
    }
    files.extend([("a table".to_owned(), table), ("hashes".to_owned(), hashes)]);
    files
}

#[test]
fn the_estimate_is_near_for_what_people_and_programs_write() {
    let tokenizers = [tiktoken_rs::cl100k_base().unwrap(), tiktoken_rs::o200k_base().unwrap()];
    let languages = LANGUAGES.map(|(name, text)| (name.to_owned(), format!("{text} ").repeat(3)));
    let mut far = Vec::new();
    for (name, text) in languages.into_iter().chain(files()) {
        let real = tokenizers.each_ref().map(|tokenizer| tokenizer.encode_ordinary(&text).len());
        let (fewest, most) = (real.iter().min().unwrap(), real.iter().max().unwrap());
        let [fewest, most] = [*fewest, *most].map(|tokens| u64::try_from(tokens).unwrap());
        let estimate = tokens::of_text(&text);
        let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
        let body = body.to_string();
        let beside = request::read(body.as_bytes(), Dialect::Chat).unwrap().beside;
        let prompt = prompt::estimate(body.as_bytes(), beside).most;
        println!("{name:40} real {fewest:5} to {most:5}, estimate {estimate:5}, prompt {prompt:5}");
        // Tokenizers differ by up to three times where an alphabet is not Latin.
        let is_near = estimate * 100 >= most * 75 && estimate * 100 <= most * 150;
        // What reserves money is not below either of them, and not twice the dearer one.
        let is_enough = prompt >= most && prompt <= 2 * most + 64;
        if !is_near || !is_enough {
            far.push(name);
        }
    }
    assert!(far.is_empty(), "too far off: {far:?}");
}

/// What no tokenizer has learnt, or what it cuts into small pieces.
fn unusual() -> Vec<(&'static str, String)> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut pick = |from: &str| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let place = state % u64::try_from(from.len()).unwrap();
        char::from(*from.as_bytes().get(usize::try_from(place).unwrap()).unwrap())
    };
    let mut words = |letters: &str, length: usize, between: &str| -> String {
        let word = |_| (0..length).map(|_| pick(letters)).collect::<String>();
        (0..200).map(word).collect::<Vec<_>>().join(between)
    };
    let (consonants, small) = ("bcdfghjklmnpqrstvwxz", "abcdefghijklmnopqrstuvwxyz");
    let mixed = format!("{small}{}", small.to_uppercase());
    vec![
        ("consonants", words(consonants, 4, " ")),
        ("ids", words(small, 8, "\n")),
        ("ids in both cases", words(&mixed, 8, " ")),
        ("a letter a line", words(small, 1, "\n")),
        ("letters", words(small, 1, " ")),
        ("digits", words("0123456789", 1, " ")),
        ("numbers in a list", words("0123456789", 2, ", ")),
        ("hex bytes", words("0123456789abcdef", 2, " ")),
        ("amharic", "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው። ".repeat(5)),
        ("georgian", "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებით. ".repeat(5)),
        ("burmese", "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် မွေးဖွားလာသူများ ဖြစ်သည်။ ".repeat(5)),
    ]
}

#[test]
fn what_is_unusual_is_hardly_reserved_below_what_it_costs() {
    let tokenizers = [tiktoken_rs::cl100k_base().unwrap(), tiktoken_rs::o200k_base().unwrap()];
    let mut far = Vec::new();
    for (name, text) in unusual() {
        let real = tokenizers.each_ref().map(|tokenizer| tokenizer.encode_ordinary(&text).len());
        let most = u64::try_from(*real.iter().max().unwrap()).unwrap();
        let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
        let body = body.to_string();
        let beside = request::read(body.as_bytes(), Dialect::Chat).unwrap().beside;
        let prompt = prompt::estimate(body.as_bytes(), beside).most;
        println!("{name:40} real {most:5}, prompt {prompt:5}");
        if prompt * 100 < most * 90 || prompt > 2 * most + 64 {
            far.push(name);
        }
    }
    assert!(far.is_empty(), "too far off: {far:?}");
}
