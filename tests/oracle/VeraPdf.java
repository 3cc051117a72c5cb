import java.io.FileInputStream;
import java.io.InputStream;
import java.util.Map;
import java.util.TreeMap;
import java.util.logging.Level;
import java.util.logging.Logger;
import org.verapdf.gf.foundry.VeraGreenfieldFoundryProvider;
import org.verapdf.pdfa.Foundries;
import org.verapdf.pdfa.PDFAParser;
import org.verapdf.pdfa.PDFAValidator;
import org.verapdf.pdfa.flavours.PDFAFlavour;
import org.verapdf.pdfa.results.TestAssertion;
import org.verapdf.pdfa.results.ValidationResult;
import org.verapdf.pdfa.validation.profiles.Profiles;
import org.verapdf.pdfa.validation.profiles.ValidationProfile;

/** Usage: VeraPdf FLAVOUR[,FLAVOUR…] FILE…; prints one line a file and flavour, and one a broken rule. */
public class VeraPdf {
  public static void main(String[] arguments) throws Exception {
    Logger.getLogger("").setLevel(Level.OFF);
    VeraGreenfieldFoundryProvider.initialise();
    boolean fine = true;
    for (int index = 1; index < arguments.length; index++) {
      for (String flavour : arguments[0].split(",")) {
        fine &= check(flavour, arguments[index]);
      }
    }
    System.exit(fine ? 0 : 1);
  }

  private static boolean check(String flavour, String file) throws Exception {
    String name = flavour.startsWith("ua") ? "PDFUA-" + flavour.substring(2) : "PDFA-" + flavour.toUpperCase();
    try (InputStream rules = VeraPdf.class.getResourceAsStream("/org/verapdf/pdfa/validation/" + name + ".xml");
        InputStream input = new FileInputStream(file);
        PDFAParser parser =
            Foundries.defaultInstance().createParser(input, PDFAFlavour.byFlavourId(flavour))) {
      ValidationProfile profile = Profiles.profileFromXml(rules);
      PDFAValidator validator = Foundries.defaultInstance().createValidator(profile, false);
      ValidationResult result = validator.validate(parser);
      Map<String, Integer> broken = new TreeMap<>();
      for (TestAssertion assertion : result.getTestAssertions()) {
        if (assertion.getStatus() == TestAssertion.Status.FAILED) {
          String rule = assertion.getRuleId().getClause() + "-" + assertion.getRuleId().getTestNumber();
          broken.merge(rule + " " + assertion.getMessage(), 1, Integer::sum);
        }
      }
      String word = result.isCompliant() ? "PASS" : "FAIL";
      System.out.println(word + " " + name + " " + result.getTotalAssertions() + " assertions " + file);
      broken.forEach((rule, count) -> System.out.println("  " + count + " x " + rule));
      return result.isCompliant();
    }
  }
}
