// The report's style sheet: system fonts, one column, one restrained colour per verdict in a strong and a
// soft tone.
#include "harness/report/page.h"

namespace moecheck::harness::report {

const std::string_view kStyle = R"css(
:root{color-scheme:light dark;
--bg:#f6f6f3;--panel:#fff;--ink:#1d2126;--dim:#626b73;--faint:#a3aab0;--line:#e2e3de;--rule:#cfd2cc;
--code:#f1f1ed;--link:#23588c;
--p:#1d7f5f;--ps:#dcefe5;--pi:#0c573e;--f:#c2371f;--fs:#fbdfd8;--fi:#8f2310;--s:#a06800;--ss:#fbe9c6;
--si:#6d4700;
--u:#3b78b4;--us:#dbe8f5;--ui:#1c4c7c;--m:#7b58b3;--ms:#eae2f6;--mi:#523584;--o:#ab3b8d;--os:#f6deef;
--oi:#7d2064;
--k:#6b747b;--ks:#eaebe8;--ki:#59626a;--c:#5c1414;--cs:#e9cfcb;--ci:#5c1414;--t:#7c4a17;--ts:#f0dfcb;
--ti:#6a3c0e;--w:#857a45;--ws:#eeebda;--wi:#5f5627}
@media(prefers-color-scheme:dark){:root{
--bg:#14171a;--panel:#1b1f23;--ink:#e3e6e8;--dim:#98a2aa;--faint:#5d676f;--line:#2a3036;--rule:#3a4249;
--code:#23282d;--link:#86b8ea;
--p:#3fae87;--ps:#17382d;--pi:#93dcc0;--f:#ea6a50;--fs:#4a1e16;--fi:#ffb9a8;--s:#dba336;--ss:#43330f;
--si:#f6d48c;
--u:#6aa5de;--us:#1b344d;--ui:#b4d5f6;--m:#a587d8;--ms:#32264a;--mi:#d7c5f6;--o:#d577ba;--os:#44203a;
--oi:#f5bfe3;
--k:#8b959c;--ks:#282d32;--ki:#aab4bb;--c:#e08a82;--cs:#471818;--ci:#ffc9c3;--t:#cf9258;--ts:#3e2a15;
--ti:#f0cba3;--w:#b5a968;--ws:#34301b;--wi:#ded49c}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-padding-top:16px}
body{margin:0;background:var(--bg);color:var(--ink);
font:14px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums}
main{max-width:1160px;margin:0 auto;padding:40px 28px 72px}
code,.where b,.numbers dd{font-family:ui-monospace,"SF Mono",SFMono-Regular,Menlo,Consolas,
"DejaVu Sans Mono",monospace;font-size:12.5px}
code{overflow-wrap:anywhere}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
i{font-style:normal;color:var(--dim)}
h1{font-size:34px;line-height:1.15;letter-spacing:-.02em;font-weight:650;margin:18px 0 6px}
h2{font-size:19px;line-height:1.3;letter-spacing:-.01em;font-weight:650;margin:0 0 2px}
h3{font-size:14px;font-weight:650;margin:0}
section{margin-top:52px}
.how,.lede,.note{color:var(--dim);margin:0 0 16px;max-width:78ch}.lede{font-size:15px;margin-bottom:20px}
.note{font-size:13px}
.bad{color:var(--f)}.good{color:var(--p)}
.brand{display:flex;align-items:center;gap:9px;margin:0;font-weight:650;letter-spacing:-.01em}
.brand span{color:var(--dim);font-weight:400}
.mark{width:20px;height:20px;fill:var(--p)}.mark .dim{fill:var(--faint);opacity:.55}
.v{display:inline-block;min-width:19px;padding:0 4px;border-radius:4px;
font:700 11px/18px system-ui,sans-serif;text-align:center;color:#fff}
@media(prefers-color-scheme:dark){.v{color:#101316}}
.v.p,.bar .p{background:var(--p)}.v.f,.bar .f{background:var(--f)}.v.s,.bar .s{background:var(--s)}
.v.u,.bar .u{background:var(--u)}
.v.m,.bar .m{background:var(--m)}.v.o,.bar .o{background:var(--o)}.v.k,.bar .k{background:var(--k)}
.v.c,.bar .c{background:var(--c)}
.v.t,.bar .t{background:var(--t)}.v.w,.bar .w{background:var(--w)}
.bar{display:flex;gap:2px;height:10px;border-radius:5px;overflow:hidden;margin-bottom:14px}
.bar i{min-width:4px}
.totals{list-style:none;display:flex;flex-wrap:wrap;gap:10px 30px;margin:0 0 26px;padding:0}
.totals li{display:grid;grid-template-columns:auto 1fr;column-gap:8px;align-items:center}
.totals .v{justify-self:start}.totals li>b:last-of-type{font-size:21px;line-height:1.2;font-weight:600;
letter-spacing:-.01em}
.totals span{grid-column:1/3;font-size:11.5px;letter-spacing:.03em;color:var(--dim)}
.totals .zero{opacity:.5}
.env{display:flex;flex-wrap:wrap;gap:8px 30px;margin:0 0 14px;padding-top:14px;
border-top:1px solid var(--line);font-size:13px}
.env dt{color:var(--dim);font-size:11.5px}.env dd{margin:0;overflow-wrap:anywhere}
.cmd{margin:0;background:var(--code);border-radius:6px;padding:7px 11px}
.cmd code::before{content:"$ ";color:var(--faint)}
nav{display:flex;flex-wrap:wrap;gap:4px 20px;margin-top:22px;padding:9px 0;
border-top:1px solid var(--line);border-bottom:1px solid var(--line)}
.panel,.card,figure{background:var(--panel);border:1px solid var(--line);border-radius:9px}
.scroll{overflow-x:auto;max-width:100%}
.panel.scroll{padding:6px 16px 8px}
table{border-collapse:collapse}th{font-weight:500;text-align:left}
.grids{display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start}
.grids .panel{padding:13px 16px 14px;min-width:0;max-width:100%}.grids h3{margin-bottom:8px}
.grid th{font-size:12.5px;padding:0 10px 0 0;white-space:nowrap}
.grid .impl{padding:0 6px 5px 9px;font-weight:600;vertical-align:bottom}
.grid .policies th{padding:0 0 6px;line-height:0;vertical-align:bottom;color:var(--dim);font-size:11.5px}
.grid .policies span{writing-mode:vertical-rl;transform:rotate(180deg);line-height:36px}
.grid td{padding:1px;line-height:0}.grid td.first,.grid .policies .first{padding-left:10px}
.grid tbody th{position:sticky;left:0;background:var(--panel);z-index:1}
.grid a{display:inline-block;min-width:34px;height:24px;padding:0 4px;border-radius:4px;font-size:12px;
line-height:24px;text-align:center}
.grid a b{margin-right:3px;font-weight:700}.grid a:hover{outline:2px solid var(--link);text-decoration:none}
a.p,.tone.p{background:var(--ps);color:var(--pi)}a.f,.tone.f{background:var(--fs);color:var(--fi)}
a.s,.tone.s{background:var(--ss);color:var(--si)}
a.u,.tone.u{background:var(--us);color:var(--ui)}a.m,.tone.m{background:var(--ms);color:var(--mi)}
a.o,.tone.o{background:var(--os);color:var(--oi)}
a.k,.tone.k{background:var(--ks);color:var(--ki)}a.c,.tone.c{background:var(--cs);color:var(--ci)}
a.t,.tone.t{background:var(--ts);color:var(--ti)}
a.w,.tone.w{background:var(--ws);color:var(--wi)}
.grid a.f,.grid a.c{background:var(--f);color:#fff}
@media(prefers-color-scheme:dark){.grid a.f,.grid a.c{color:#101316}}
#failures h3,#waived h3{margin:26px 0 10px;font-size:15px}#failures h3 span,#waived h3 span{font-weight:400;color:var(--dim)}
.n,h3 .n{color:var(--dim);font-weight:400;font-size:13px;margin-left:8px}
.card{padding:13px 18px 15px;margin-bottom:12px;border-left-width:4px}
.card.f{border-left-color:var(--f)}.card.s{border-left-color:var(--s)}.card.m{border-left-color:var(--m)}
.card.o{border-left-color:var(--o)}
.card.c{border-left-color:var(--c)}.card.t{border-left-color:var(--t)}
.card:target,tr:target,tbody:target th{outline:2px solid var(--link);outline-offset:1px}
.card p{margin:0 0 8px}.card .cmd{margin:0}.case{display:flex;gap:9px;align-items:baseline}
.case code{flex:1;min-width:0}.card .no{color:var(--dim);font-size:12.5px}
.card .alike{color:var(--dim);font-size:12.5px;white-space:nowrap}
.cause{font-weight:600;font-size:15px}.reason{color:var(--dim)}
.where{margin-top:12px!important}.where span{color:var(--dim)}.where b{font-weight:600}
.track{position:relative;height:16px;margin:0 0 8px;max-width:760px}
.track::before{content:"";position:absolute;inset:7px 0 7px;background:var(--line);border-radius:1px}
.track i{position:absolute;top:3px;height:10px}
.track .range{min-width:4px;background:var(--p);opacity:.42;border-radius:2px;margin-left:-1px}
.track .want{width:2px;margin-left:-1px;background:var(--p);top:0;height:16px}
.track .got{width:11px;height:11px;margin-left:-5px;border-radius:50%;background:var(--f);
border:2px solid var(--panel)}
.numbers{display:flex;flex-wrap:wrap;gap:6px 32px;margin:0 0 10px}
.numbers dt{color:var(--dim);font-size:11.5px}.numbers dd{margin:0;font-size:13.5px}
.numbers .bad dd{color:var(--f);font-weight:600}.numbers .good dd{color:var(--p)}
.broken{list-style:none;margin:0 0 10px;padding:0}
.broken li::before{content:"broken ";color:var(--f);font-size:12px}.broken b{font-weight:600}
.figures{width:100%;font-size:13px}.figures th,.figures td{padding:5px 0 5px 18px;text-align:right;
white-space:nowrap}
.figures th:first-child,.figures .name{text-align:left}.figures th:first-child{padding-left:0}
.figures .name{padding-left:14px}
.figures thead th{color:var(--dim);font-size:12px;border-bottom:1px solid var(--rule);vertical-align:bottom}
.figures td{border-top:1px solid var(--line)}.figures tbody th{border-top:1px solid var(--line)}
.figures tbody tr:first-child>*{border-top:0}.figures tbody th[rowspan]{vertical-align:top}
.figures tbody th{font-weight:600;position:sticky;left:0;background:var(--panel)}
.zero{color:var(--faint)}span.tone{padding:1px 7px;margin-right:-7px;border-radius:4px}
.clauses{width:auto}.clauses .impl{text-align:center;border-bottom:0;color:var(--ink);font-weight:600;
padding-left:40px}
.clauses th:first-child,.clauses thead tr:first-child th:first-child{text-align:left}
.clauses thead tr+tr th:first-child,.clauses .first{padding-left:40px;text-align:right}
.clauses tbody th{font-weight:500}
.statements{list-style:none;margin:14px 0 0;padding:0;color:var(--dim)}
.statements b{color:var(--ink);font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:14px}
figure{margin:0;padding:12px 16px 11px;display:flex;flex-direction:column}
figcaption{font-size:13px;flex:1;overflow-wrap:anywhere;color:var(--dim)}
figcaption b{color:var(--ink);font-weight:600}
figure svg{display:block;width:100%;height:auto;margin:2px 0}
figure p{display:flex;justify-content:space-between;margin:0;font-size:12px;color:var(--dim)}
svg text{font:9px system-ui,sans-serif;fill:var(--dim);text-anchor:middle}svg .base{stroke:var(--rule)}
svg .bound{stroke:var(--f);stroke-dasharray:2 2}
svg .in{fill:var(--u)}svg .exact{fill:var(--p)}svg .over{fill:var(--f)}
.more{margin-top:10px;background:var(--panel);border:1px solid var(--line);border-radius:9px}
summary{padding:8px 16px;cursor:pointer}summary b:not(.v){font-weight:600}summary .v{margin-left:9px}
summary:hover{color:var(--link)}
.stack .more{margin:0;border-radius:0}.stack .more+.more{border-top:0}
.stack .more:first-child{border-radius:9px 9px 0 0}.stack .more:last-child{border-radius:0 0 9px 9px}
.more .scroll{padding:0 16px 10px}.list{width:100%;font-size:13px}
.list td{padding:4px 14px 4px 0;vertical-align:baseline;border-top:1px solid var(--line)}
.list td.n{text-align:right;white-space:nowrap;width:1%}
.list td b{font-weight:600}
.checks th{padding:14px 0 5px;font-weight:600}
.checks th span{font-weight:400;color:var(--dim);margin-left:6px}
.checks thead th{padding:0 14px 0 0;font-size:12px;font-weight:500;color:var(--dim)}
.checks td{width:1%}.checks td:last-child{width:auto}
.checks td:nth-child(2),.checks td:nth-child(3),.checks thead th:nth-child(2),
.checks thead th:nth-child(3){text-align:right;white-space:nowrap}
footer{margin-top:64px;padding-top:22px;border-top:1px solid var(--line)}
footer h2{font-size:15px;margin-bottom:10px}
.legend{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:10px 28px;
margin:0 0 20px;font-size:13px}
.legend dt{font-weight:600;font-size:12px}.legend dd{margin:1px 0 0;color:var(--dim)}
@media(max-width:640px){main{padding:24px 14px 48px}h1{font-size:27px}section{margin-top:40px}
.totals{gap:10px 22px}.card{padding:12px 13px 13px}
.grids .panel{width:100%;padding:11px 12px}.case{flex-wrap:wrap}.case code{flex-basis:80%}
.stack .more{margin:0;border-radius:0}.stack .more+.more{border-top:0}
.stack .more:first-child{border-radius:9px 9px 0 0}.stack .more:last-child{border-radius:0 0 9px 9px}
.more .scroll{padding:0 12px 8px}.numbers{gap:6px 22px}
.list td{padding-right:10px}.list td:last-child{min-width:210px}}
@media print{body{background:#fff}.card,figure,.panel{break-inside:avoid}nav{display:none}}
)css";

}  // namespace moecheck::harness::report
